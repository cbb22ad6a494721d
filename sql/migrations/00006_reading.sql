-- +goose Up
-- One row each time a process began to read the slot, with the number of checkpoints that it noted. External databases carry
-- both in their metadata: one that knows of a checkpoint which the primary does not shows that the primary was restored.
CREATE TABLE outflow.reading (
    slot        text NOT NULL,
    reading     bigint NOT NULL,
    checkpoints bigint NOT NULL DEFAULT 0,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (slot, reading)
);

-- +goose Down
DROP TABLE outflow.reading;
