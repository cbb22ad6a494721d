-- +goose Up
ALTER TABLE outflow.source ADD COLUMN reading bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN outflow.source.reading IS 'The newest reading of the slot. A process with an earlier reading may not write notes: another process has the slot.';
ALTER TABLE outflow.destination_state ADD COLUMN taken_epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN retries bigint NOT NULL DEFAULT 0, ADD COLUMN retried bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN outflow.destination_state.taken_epoch IS 'The epoch that the reading process works with. A higher epoch is a requested copy that has not begun yet.';
COMMENT ON COLUMN outflow.destination_state.retries IS 'How many retries were requested.';
COMMENT ON COLUMN outflow.destination_state.retried IS 'How many of the requested retries are done.';

-- +goose Down
ALTER TABLE outflow.destination_state DROP COLUMN taken_epoch, DROP COLUMN retries, DROP COLUMN retried;
ALTER TABLE outflow.source DROP COLUMN reading;
