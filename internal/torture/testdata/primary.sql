-- The tables of the harness, beside those of the auth backend in testdata/schema.sql at the top of the repository.

-- Versions of rows. A key that is deleted and inserted again gets a higher version.
CREATE SEQUENCE version;

-- One row a transaction, for each writer and tenant in it. Numbers have no gaps.
CREATE TABLE "Ledger" (tenant uuid, writer int, number bigint, PRIMARY KEY (tenant, writer, number));

-- The last number, which each transaction moves.
CREATE TABLE "Clock" (tenant uuid, writer int, number bigint NOT NULL, PRIMARY KEY (tenant, writer));

-- Transfers keep the sum of the balances of a tenant.
CREATE TABLE "Account" (tenant uuid, id bigint, balance bigint NOT NULL, version bigint NOT NULL, PRIMARY KEY (tenant, id));

-- Keys and tenants of items change. Payloads are stored out of line, so that an UPDATE of other columns leaves them out of the WAL.
CREATE TABLE "Item" (tenant uuid, id bigint, note text, payload text NOT NULL, version bigint NOT NULL, PRIMARY KEY (tenant, id));
ALTER TABLE "Item" ALTER COLUMN payload SET STORAGE EXTERNAL;

-- Partitions are attached, detached, truncated.
CREATE TABLE "Part" (tenant uuid, id bigint, kind int, version bigint NOT NULL, PRIMARY KEY (tenant, id, kind)) PARTITION BY LIST (kind);
CREATE TABLE "Part_0" PARTITION OF "Part" FOR VALUES IN (0);
CREATE TABLE "Part_1" PARTITION OF "Part" FOR VALUES IN (1);
CREATE TABLE "Part_2" PARTITION OF "Part" FOR VALUES IN (2);
CREATE TABLE "Part_other" PARTITION OF "Part" DEFAULT;

-- Columns are added, dropped, renamed and widened.
CREATE TABLE "Wide" (tenant uuid, id bigint, amount int NOT NULL, spare int, ratio float8, moment timestamptz, period interval, raw bytea, tags text[],
    version bigint NOT NULL, PRIMARY KEY (tenant, id));
