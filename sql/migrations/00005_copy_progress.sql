-- +goose Up
ALTER TABLE outflow.destination_state ADD COLUMN copied_rows bigint, ADD COLUMN copy_total bigint;
COMMENT ON COLUMN outflow.destination_state.copied_rows IS 'How many rows the copy in progress has copied; NULL if no copy is in progress.';
COMMENT ON COLUMN outflow.destination_state.copy_total IS 'The planner''s estimate of how many rows the copy has in all; NULL is unknown.';

-- +goose Down
ALTER TABLE outflow.destination_state DROP COLUMN copied_rows, DROP COLUMN copy_total;
