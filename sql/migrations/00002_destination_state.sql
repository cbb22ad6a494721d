-- +goose Up
-- One row per destination. The flush LSN passes a change only after the state that makes the change dispensable is noted here.
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
COMMENT ON COLUMN outflow.destination_state.epoch IS 'Raised whenever the stream alone can no longer bring the external database up to date; the destination is then copied again.';
COMMENT ON COLUMN outflow.destination_state.last_sequence_id IS 'The external database had committed at least this id. A database with a lower id was restored, emptied or swapped.';
COMMENT ON COLUMN outflow.destination_state.resync_at IS 'When a resync was last requested.';
ALTER TABLE outflow.source ADD COLUMN flush_lsn pg_lsn, ADD COLUMN resetting boolean NOT NULL DEFAULT false,
    ADD COLUMN published text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN outflow.source.flush_lsn IS 'The LSN that was about to be confirmed to the slot. A slot ahead of this LSN was moved by another program.';

-- +goose Down
ALTER TABLE outflow.source DROP COLUMN flush_lsn, DROP COLUMN resetting, DROP COLUMN published;
DROP TABLE outflow.destination_state;
