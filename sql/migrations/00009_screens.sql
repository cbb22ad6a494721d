-- +goose Up
ALTER TABLE outflow.destination_state ADD COLUMN since timestamptz NOT NULL DEFAULT now(), ADD COLUMN detached boolean NOT NULL DEFAULT false,
    ADD COLUMN retry_at timestamptz, ADD COLUMN asked_by text NOT NULL DEFAULT '', ADD COLUMN asked_why text NOT NULL DEFAULT '',
    ADD COLUMN sync_asked bigint, ADD COLUMN sync_reached bigint, ADD COLUMN mappings text NOT NULL DEFAULT '';
COMMENT ON COLUMN outflow.destination_state.since IS 'When the destination got its state.';
COMMENT ON COLUMN outflow.destination_state.detached IS 'The stream goes on without the destination, which is copied again when it takes rows again.';
COMMENT ON COLUMN outflow.destination_state.retry_at IS 'When a retry was last requested, without the pause after a failure.';
COMMENT ON COLUMN outflow.destination_state.asked_by IS 'Who last requested a resync or a retry.';
COMMENT ON COLUMN outflow.destination_state.sync_asked IS 'outflow verify waits until the destination has every change up to this sequence id.';
COMMENT ON COLUMN outflow.destination_state.sync_reached IS 'The destination has every change up to this sequence id, noted when sync_asked asks for it.';
COMMENT ON COLUMN outflow.destination_state.mappings IS 'JSON: the name, the last_synced_sequence_id and the time of that id of each mapping, as the process last knew them.';
COMMENT ON COLUMN outflow.destination_state.copied_rows IS 'How many rows the copy in progress, or else the last copy, has copied; NULL is unknown.';
ALTER TABLE outflow.reading ADD COLUMN host text NOT NULL DEFAULT '', ADD COLUMN process integer, ADD COLUMN walsender integer;
COMMENT ON COLUMN outflow.reading.host IS 'The machine of the process that reads the slot.';
COMMENT ON COLUMN outflow.reading.process IS 'The id of that process on its machine.';
COMMENT ON COLUMN outflow.reading.walsender IS 'The process of the primary that serves the slot: active_pid in pg_replication_slots while the reading lasts.';

-- +goose Down
ALTER TABLE outflow.reading DROP COLUMN host, DROP COLUMN process, DROP COLUMN walsender;
ALTER TABLE outflow.destination_state DROP COLUMN since, DROP COLUMN detached, DROP COLUMN retry_at, DROP COLUMN asked_by, DROP COLUMN asked_why,
    DROP COLUMN sync_asked, DROP COLUMN sync_reached, DROP COLUMN mappings;
