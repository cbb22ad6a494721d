package demo

// The load's statements on the primary. In all but the first, $1 is the tenant and $2 the user, or the users.
const (
	// $1 are the tenants, $2 and $3 the numbers of the first and last user. Every user has a primary address; every third
	// one more.
	seedSQL = `
		WITH u AS (
			INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName", "profileImageUrl", "signedUpAt",
				"clientMetadata", "serverMetadata", "isAnonymous", "totpSecret")
			SELECT ($1::uuid[])[1 + i % cardinality($1::uuid[])], gen_random_uuid(), 'User ' || i,
				CASE WHEN i % 2 = 0 THEN 'https://example.com/' || i || '.png' END,
				CASE WHEN i % 5 <> 0 THEN now() - i * interval '1 minute' END,
				jsonb_build_object('number', i), jsonb_build_object('plan', (ARRAY['free', 'team'])[1 + i % 2]), i % 50 = 0, '\x00ff'
			FROM generate_series($2::int, $3::int) i
			RETURNING "tenancyId", "projectUserId", "displayName")
		INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", "id", "type", "isPrimary", "usedForAuth", "isVerified", "value")
		SELECT u."tenancyId", u."projectUserId", gen_random_uuid(), 'EMAIL',
			CASE n WHEN 1 THEN 'TRUE'::"BooleanTrue" END, CASE n WHEN 1 THEN 'TRUE'::"BooleanTrue" END, n = 1,
			lower(replace(u."displayName", ' ', '.')) || '.' || n || '@example.com'
		FROM u CROSS JOIN generate_series(1, 2) n
		WHERE n = 1 OR hashtext(u."projectUserId"::text) % 3 = 0`

	signUpSQL = `
		INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "displayName", "signedUpAt", "clientMetadata")
		VALUES ($1, $2, $3, now(), jsonb_build_object('from', 'the live load'))`
	firstEmailSQL = `
		INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", "id", "type", "isPrimary", "usedForAuth", "isVerified", "value")
		SELECT $1::uuid, $2::uuid, id, 'EMAIL', 'TRUE', 'TRUE', false, id || '@example.com' FROM gen_random_uuid() id`
	updateSQL = `
		UPDATE "ProjectUser" SET "displayName" = $3, "updatedAt" = now(),
			"serverMetadata" = coalesce("serverMetadata", '{}') || jsonb_build_object('seen', now())
		WHERE "tenancyId" = $1 AND "projectUserId" = $2`
	bulkSQL = `
		UPDATE "ProjectUser" SET "clientReadOnlyMetadata" = jsonb_build_object('note', $3::text), "updatedAt" = now()
		WHERE "tenancyId" = $1 AND "projectUserId" = ANY ($2::uuid[])`

	moreEmailSQL = `
		INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", "id", "type", "isVerified", "value")
		SELECT $1::uuid, $2::uuid, id, 'EMAIL', true, id || '@example.org' FROM gen_random_uuid() id
		WHERE (SELECT count(*) FROM "ContactChannel" WHERE "tenancyId" = $1 AND "projectUserId" = $2) < 3`
	demoteSQL = `
		UPDATE "ContactChannel" SET "isPrimary" = NULL, "updatedAt" = now()
		WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND "isPrimary" = 'TRUE'`
	// The address touched the longest ago, so never the one just demoted where there is another.
	promoteSQL = `
		UPDATE "ContactChannel" SET "isPrimary" = 'TRUE', "updatedAt" = now()
		WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND "id" = (SELECT "id" FROM "ContactChannel"
			WHERE "tenancyId" = $1 AND "projectUserId" = $2 ORDER BY "updatedAt", "id" LIMIT 1)`
	// The tombstone counts, and the deleted row.
	removeChannelSQL = `
		WITH gone AS (DELETE FROM "ContactChannel" WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND "id" =
			(SELECT "id" FROM "ContactChannel" WHERE "tenancyId" = $1 AND "projectUserId" = $2 AND "isPrimary" IS NULL LIMIT 1)
			RETURNING *)
		INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey", "data")
		SELECT "tenancyId", 'ContactChannel',
			jsonb_build_object('tenancyId', "tenancyId", 'projectUserId', "projectUserId", 'id', "id"), to_jsonb(gone) FROM gone`

	channelTombstonesSQL = `
		INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey", "data")
		SELECT "tenancyId", 'ContactChannel',
			jsonb_build_object('tenancyId', "tenancyId", 'projectUserId', "projectUserId", 'id', "id"), to_jsonb(c)
		FROM "ContactChannel" c WHERE "tenancyId" = $1 AND "projectUserId" = $2`
	userTombstoneSQL = `
		INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey", "data")
		SELECT "tenancyId", 'ProjectUser', jsonb_build_object('tenancyId', "tenancyId", 'projectUserId', "projectUserId"), to_jsonb(u)
		FROM "ProjectUser" u WHERE "tenancyId" = $1 AND "projectUserId" = $2`
	// A user and, as a rule, one channel.
	removeSQL = `DELETE FROM "ProjectUser" WHERE "tenancyId" = $1 AND "projectUserId" = $2`
)
