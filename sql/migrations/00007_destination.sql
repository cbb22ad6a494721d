-- +goose Up
-- The tenants' own databases, if the application keeps them here: one INSERT adds one destination. See destinations.query.
CREATE TABLE outflow.destination (
    tenant_id   text NOT NULL,
    name        text NOT NULL DEFAULT 'main',
    dsn         text NOT NULL,
    mappings    text[] DEFAULT '{}',
    enabled     boolean NOT NULL DEFAULT true,
    definitions text[] DEFAULT '{}',
    ca          text,
    PRIMARY KEY (tenant_id, name)
);
COMMENT ON COLUMN outflow.destination.tenant_id IS 'The text form of the tenant column.';
COMMENT ON COLUMN outflow.destination.dsn IS 'The connection string. It contains a password: restrict who may read this table.';
COMMENT ON COLUMN outflow.destination.mappings IS 'Names of mappings; {} stands for all of definitions, or for the default mappings if definitions is empty.';
COMMENT ON COLUMN outflow.destination.definitions IS 'Mappings that the tenant wrote, each as YAML.';
COMMENT ON COLUMN outflow.destination.ca IS 'PEM certificates of the authorities that may sign the server''s certificate; NULL stands for those that Outflow''s system trusts.';
-- +goose StatementBegin
CREATE FUNCTION outflow.destination_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY outflow_destination;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outflow.destination
    FOR EACH STATEMENT EXECUTE FUNCTION outflow.destination_changed();
ALTER TABLE outflow.destination_state ADD COLUMN error_class text;
COMMENT ON COLUMN outflow.destination_state.error_class IS 'What a tenant may be told about the last error: dns, refused, blocked, tls, auth, timeout, protocol, configuration, conflict or a SQLSTATE. reason is for the operator.';

-- +goose Down
ALTER TABLE outflow.destination_state DROP COLUMN error_class;
DROP TABLE outflow.destination;
DROP FUNCTION outflow.destination_changed;
