-- +goose Up
ALTER TABLE outflow.source ADD COLUMN relied jsonb, ADD COLUMN covered_lsn pg_lsn;
COMMENT ON COLUMN outflow.source.relied IS 'What the primary''s catalog said of the publication and of the tables at the last look: another publication, table, partition or file shows that the stream does not have all.';
COMMENT ON COLUMN outflow.source.covered_lsn IS 'Every destination is copied from the tables after this place: a change before it that the stream does not tell rightly is in the copies.';
-- "published" stays, for processes of the version before.

-- +goose Down
ALTER TABLE outflow.source DROP COLUMN relied, DROP COLUMN covered_lsn;
