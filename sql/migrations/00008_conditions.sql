-- +goose Up
ALTER TABLE outflow.source ADD COLUMN relied jsonb, ADD COLUMN covered_lsn pg_lsn;
COMMENT ON COLUMN outflow.source.relied IS 'What the primary''s catalog said about the publication and the tables at the last look. Another publication, table, partition or file proves that changes are missing in the stream.';
COMMENT ON COLUMN outflow.source.covered_lsn IS 'Every destination is copied from the tables after this LSN: the copies contain all earlier changes, even those that the stream reports incompletely.';
-- "published" stays, for processes of the previous version.

-- +goose Down
ALTER TABLE outflow.source DROP COLUMN relied, DROP COLUMN covered_lsn;
