-- The application's schema that Outflow's defaults are made for: an auth backend in which every row has a tenancyId.
-- The demo, the tests and docker-compose.yml use it.
CREATE TYPE "ContactChannelType" AS ENUM ('EMAIL');
CREATE TYPE "BooleanTrue" AS ENUM ('TRUE');

CREATE TABLE "ProjectUser" (
    "tenancyId"              uuid NOT NULL,
    "projectUserId"          uuid NOT NULL,
    "displayName"            text,
    "profileImageUrl"        text,
    "createdAt"              timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"              timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "signedUpAt"             timestamp(3),
    "serverMetadata"         jsonb,
    "clientReadOnlyMetadata" jsonb,
    "clientMetadata"         jsonb,
    "isAnonymous"            boolean NOT NULL DEFAULT false,
    "totpSecret"             bytea,
    PRIMARY KEY ("tenancyId", "projectUserId")
);

CREATE TABLE "ContactChannel" (
    "tenancyId"     uuid NOT NULL,
    "projectUserId" uuid NOT NULL,
    "id"            uuid NOT NULL,
    "type"          "ContactChannelType" NOT NULL,
    "isPrimary"     "BooleanTrue",
    "usedForAuth"   "BooleanTrue",
    "isVerified"    boolean NOT NULL,
    "value"         text NOT NULL,
    "createdAt"     timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updatedAt"     timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY ("tenancyId", "projectUserId", "id"),
    FOREIGN KEY ("tenancyId", "projectUserId") REFERENCES "ProjectUser" ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE UNIQUE INDEX "ContactChannel_primary" ON "ContactChannel" ("tenancyId", "projectUserId", "type", "isPrimary");
CREATE UNIQUE INDEX "ContactChannel_auth" ON "ContactChannel" ("tenancyId", "type", "value", "usedForAuth");

CREATE TABLE "DeletedRow" (
    "id"         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    "tenancyId"  uuid NOT NULL,
    "tableName"  text NOT NULL,
    "primaryKey" jsonb NOT NULL,
    "data"       jsonb,
    "deletedAt"  timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX "DeletedRow_tenant" ON "DeletedRow" ("tenancyId", "tableName");
