-- +goose Up
-- The switches that operators have set. Every process on the slot reads this table twice a second.
CREATE TABLE outflow.switch (
    slot      text NOT NULL,
    kind      text NOT NULL CHECK (kind IN ('reading', 'applying', 'backfills', 'destination')),
    tenant_id text NOT NULL DEFAULT '',
    name      text NOT NULL DEFAULT '',
    off       boolean NOT NULL,
    set_by    text NOT NULL,
    reason    text NOT NULL DEFAULT '',
    set_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (slot, kind, tenant_id, name)
);
COMMENT ON COLUMN outflow.switch.kind IS 'reading: of the slot; applying: in all external databases; backfills: copying rows; destination: applying in one of them.';
COMMENT ON COLUMN outflow.switch.tenant_id IS 'Together with name, the destination; both are empty for the other kinds.';

-- +goose Down
DROP TABLE outflow.switch;
