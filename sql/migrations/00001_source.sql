-- +goose Up
-- One row per slot: the history that the slot's LSNs belong to, and the number that is added to an LSN to make a sequence id.
CREATE TABLE outflow.source (
    slot              text PRIMARY KEY,
    source_id         uuid NOT NULL DEFAULT gen_random_uuid(),
    system_identifier text NOT NULL,
    timeline          integer NOT NULL,
    sequence_base     bigint NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE outflow.source IS 'The base of Outflow''s sequence ids: sequence_id = sequence_base + commit LSN.';
COMMENT ON COLUMN outflow.source.source_id IS 'Owner mark that external databases carry in _stack_sync_metadata.';

-- +goose Down
DROP TABLE outflow.source;
