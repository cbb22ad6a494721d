-- +goose Up
ALTER TABLE outflow.destination_state ADD COLUMN copied_rows bigint, ADD COLUMN copy_total bigint;
COMMENT ON COLUMN outflow.destination_state.copied_rows IS 'How many rows the copy in progress has copied; NULL where none is in progress.';
COMMENT ON COLUMN outflow.destination_state.copy_total IS 'About how many there will be, by the planner''s estimate; NULL is unknown.';

-- +goose Down
ALTER TABLE outflow.destination_state DROP COLUMN copied_rows, DROP COLUMN copy_total;
