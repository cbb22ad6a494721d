-- +goose Up
-- What is noted of each destination before the slot forgets: only then does the flush LSN pass it.
CREATE TABLE outflow.destination_state (
    slot             text NOT NULL,
    tenant_id        text NOT NULL,
    name             text NOT NULL,
    epoch            bigint NOT NULL DEFAULT 1,
    last_sequence_id bigint NOT NULL DEFAULT -1,
    fingerprint      text NOT NULL DEFAULT '',
    state            text NOT NULL DEFAULT 'backfilling',
    reason           text NOT NULL DEFAULT '',
    updated_at       timestamptz NOT NULL DEFAULT now(),
    resync_at        timestamptz,
    PRIMARY KEY (slot, tenant_id, name)
);
COMMENT ON COLUMN outflow.destination_state.epoch IS 'Raised whenever the stream alone can no longer bring the external database up to date: it is then copied anew.';
COMMENT ON COLUMN outflow.destination_state.last_sequence_id IS 'The external database had committed at least this; one that has less was restored, emptied or swapped.';
COMMENT ON COLUMN outflow.destination_state.resync_at IS 'When somebody last asked for a resync.';
ALTER TABLE outflow.source ADD COLUMN flush_lsn pg_lsn, ADD COLUMN resetting boolean NOT NULL DEFAULT false,
    ADD COLUMN published text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN outflow.source.flush_lsn IS 'What was about to be confirmed to the slot. A slot that is found ahead of it was moved by somebody else.';

-- +goose Down
ALTER TABLE outflow.source DROP COLUMN flush_lsn, DROP COLUMN resetting, DROP COLUMN published;
DROP TABLE outflow.destination_state;
