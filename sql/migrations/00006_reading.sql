-- +goose Up
-- One row for each time that a process began to read the slot, with the number of checkpoints that the process noted. External databases
-- have both numbers in their metadata: a checkpoint that the primary does not know proves that the primary was restored.
CREATE TABLE outflow.reading (
    slot        text NOT NULL,
    reading     bigint NOT NULL,
    checkpoints bigint NOT NULL DEFAULT 0,
    begun_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (slot, reading)
);

-- +goose Down
DROP TABLE outflow.reading;
