-- The rows of destinations.query with the sizes of their values. The primary measures: what is beyond its bound is not sent.
--
-- The operator's columns and query stand in the places in braces. The braces are named nowhere else: a query of several lines would end this comment.
-- The parameters:
--   $1  bytes of the values of all rows: where the rows together have more, the largest rows come without values
--   $2  bytes in storage of the arrays that are unpacked, of all rows: the others are "late"
--   $3  rows
--   $4  bytes of tenant and of name: longer ones come cut
--   $5  bytes of dsn, $6 of ca, $7 of all mappings, $8 number of definitions, $9 bytes of one definition
--   $10 bytes in storage of mappings, $11 of definitions: no allowed array takes more
--
-- The size of an array is that of its elements. A quarter of a gigabyte may be packed into two megabytes of storage. Therefore an array that takes more
-- storage than an allowed array is not looked into, and the others are unpacked once, and never stored: unnest stands in the select list, not in FROM.
WITH given AS (
	SELECT {columns} FROM (
{query}
) AS x LIMIT $3::bigint),
weighed AS (
	SELECT given.*, coalesce(pg_column_size(mappings), 0)::bigint + coalesce(pg_column_size(definitions), 0) AS storage
	FROM given),
queued AS (
	SELECT weighed.*, sum(storage) OVER (ORDER BY storage, tenant, name ROWS UNBOUNDED PRECEDING) > $2::bigint AS late
	FROM weighed),
-- packed_mappings and packed_definitions are the sizes in storage of arrays that are not looked into, NULL for the others.
packed AS (
	SELECT queued.*,
		CASE WHEN pg_column_size(mappings) > $10::bigint OR late THEN pg_column_size(mappings) END AS packed_mappings,
		CASE WHEN pg_column_size(definitions) > $11::bigint OR late THEN pg_column_size(definitions) END AS packed_definitions
	FROM queued OFFSET 0),
measured AS (
	SELECT packed.*,
		coalesce(octet_length(tenant), 0) AS tenant_size, coalesce(octet_length(name), 0) AS name_size,
		coalesce(octet_length(dsn), 0) AS dsn_size, coalesce(octet_length(ca), 0) AS ca_size,
		coalesce(greatest(m.size, packed_mappings), 0)::bigint AS mappings_size,
		coalesce(greatest(d.size, packed_definitions), 0)::bigint AS definitions_size,
		d.number AS definitions_number, coalesce(greatest(d.longest, packed_definitions), 0)::bigint AS longest
	FROM packed
		CROSS JOIN LATERAL (
			SELECT sum(octet_length(e)) AS size
			FROM (SELECT unnest(CASE WHEN packed_mappings IS NULL THEN mappings END) AS e) AS u OFFSET 0) AS m
		CROSS JOIN LATERAL (
			SELECT sum(octet_length(e)) AS size, max(octet_length(e)) AS longest, count(*) AS number
			FROM (SELECT unnest(CASE WHEN packed_definitions IS NULL THEN definitions END) AS e) AS u OFFSET 0) AS d),
judged AS (
	SELECT measured.*, tenant_size + name_size + dsn_size + ca_size + mappings_size + definitions_size AS size,
		tenant_size <= $4::int AND name_size <= $4::int AND dsn_size <= $5::bigint AND ca_size <= $6::bigint AND mappings_size <= $7::bigint
			AND definitions_number <= $8::bigint AND longest <= $9::bigint AND NOT late AS fits
	FROM measured),
chosen AS (
	SELECT judged.*,
		fits AND sum(CASE WHEN fits THEN size ELSE 0 END) OVER (ORDER BY size, tenant, name ROWS UNBOUNDED PRECEDING) <= $1::bigint AS read
	FROM judged)
SELECT CASE WHEN tenant_size <= $4::int THEN tenant ELSE left(tenant, $4::int) END, CASE WHEN name_size <= $4::int THEN name ELSE left(name, $4::int) END,
	CASE WHEN read THEN dsn END, CASE WHEN read THEN ca END, CASE WHEN read THEN mappings END, CASE WHEN read THEN definitions END,
	tenant_size, name_size, dsn_size, ca_size, mappings_size, definitions_size, definitions_number, longest, late, read
FROM chosen
