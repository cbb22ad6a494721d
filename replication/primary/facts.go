package primary

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// facts are the catalog's rows about the publication and the configured tables, in a single snapshot. Their JSON form is what
// outflow.source notes.
type facts struct {
	Publication *publicationFacts `json:"publication"` // nil: there is none
	Tables      []tableFacts      `json:"tables"`      // in the order of the request
	// Former are tables that an earlier look found in the publication, and that are not configured: the stream may still have their changes. By OID.
	Former []uint32 `json:"former,omitempty"`
}

// formerly takes over the tables of the publication that earlier looks found, less the configured tables.
func (f *facts) formerly(looks ...*facts) {
	for _, look := range looks {
		if look == nil {
			continue
		}
		f.Former = append(f.Former, look.Former...)
		if look.Publication != nil {
			for _, m := range look.Publication.Members {
				f.Former = append(f.Former, m.Table)
			}
		}
	}
	slices.Sort(f.Former)
	f.Former = slices.DeleteFunc(slices.Compact(f.Former), f.has)
}

type publicationFacts struct {
	rowVersion
	Owner     string             `json:"owner"`
	AllTables bool               `json:"all"`
	Kinds     bool               `json:"kinds"`   // inserts, updates, deletes and truncates
	ViaRoot   bool               `json:"viaroot"` // a partition's changes are the root's
	Members   []membershipFacts  `json:"members"`
	Schemas   []publishedSchemas `json:"schemas"` // from 15 on
}

// rowVersion names a version of a row of the catalog: any change of the row gives another version.
type rowVersion struct {
	OID  uint32 `json:"oid"`
	XMin string `json:"xmin"`
}

type membershipFacts struct {
	rowVersion
	Table    uint32   `json:"table"`
	Name     string   `json:"name"`    // schema and name
	Columns  []string `json:"columns"` // nil: all
	Filtered bool     `json:"filtered"`
}

type publishedSchemas struct {
	rowVersion
	Schema string `json:"schema"`
}

type tableFacts struct {
	OID        uint32         `json:"oid"` // 0: there is no such table
	Schema     string         `json:"schema"`
	Name       string         `json:"name"`
	Kind       string         `json:"kind"` // pg_class.relkind
	Secured    bool           `json:"secured"`
	Restricted bool           `json:"restricted"` // the role may not use the schema
	Children   []string       `json:"children"`   // inheriting tables which are no partitions
	Storage    []storageFacts `json:"storage"`    // of the table itself, and of every leaf of a partitioned table, by OID
	Columns    []columnFacts  `json:"columns"`
}

// storageFacts are of a relation with rows, and of a partitioned root, which has none.
type storageFacts struct {
	OID       uint32   `json:"oid"`
	Name      string   `json:"name"` // schema and name, quoted
	Kind      string   `json:"kind"`
	Persist   string   `json:"persist"`
	File      uint32   `json:"file"`     // pg_class.relfilenode
	Toast     uint32   `json:"toast"`    // pg_class.reltoastrelid; 0: none
	Attached  string   `json:"attached"` // versions of the rows of pg_inherits between the root and the leaf; "" for the root
	Filled    string   `json:"filled"`   // beginning of Attached up to the last table with possible rows from before its attachment
	Identity  string   `json:"identity"`
	Key       []string `json:"key"`       // columns of the index that names a row; nil: no index can
	Generated []string `json:"generated"` // columns of the key, or with FULL of the table
	Deferred  bool     `json:"deferred"`  // the index for naming a row is DEFERRABLE
}

type columnFacts struct {
	Number   int     `json:"number"` // pg_attribute.attnum
	Name     string  `json:"name"`
	Type     uint32  `json:"type"`
	Version  string  `json:"version"` // of the row of pg_attribute
	Labels   *string `json:"labels"`  // lines for the enums and the composite types inside the type; nil: none
	NotNull  bool    `json:"notnull"`
	Readable bool    `json:"readable"`
}

// has reports whether a relation is a table or a partition.
func (f *facts) has(oid uint32) bool {
	return slices.ContainsFunc(f.Tables, func(t tableFacts) bool {
		return slices.ContainsFunc(t.Storage, func(s storageFacts) bool { return s.OID == oid })
	})
}

func (t *tableFacts) column(name string) *columnFacts {
	for i := range t.Columns {
		if t.Columns[i].Name == name {
			return &t.Columns[i]
		}
	}
	return nil
}

// root is the storage of the table itself.
func (t *tableFacts) root() *storageFacts {
	for i := range t.Storage {
		if t.Storage[i].OID == t.OID {
			return &t.Storage[i]
		}
	}
	return &storageFacts{}
}

// KeyIndex is a subquery for the index whose columns name a row of c (pg_class): that of the replica identity, as the server chooses it
// (RelationGetIndexList in relcache.c), or with FULL the primary key or another unique index without NULLs. INCLUDE columns are
// none of the key's.
const KeyIndex = `(SELECT i.indexrelid, (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns FROM pg_catalog.pg_index i
	WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
		AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident WHEN 'f' THEN NOT EXISTS (
			SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
				AND (NOT a.attnotnull OR a.attgenerated <> '')) ELSE false END
	ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1)`

// bornAttached is a condition that the table i.inhrelid (pg_inherits) was made by CREATE TABLE ... PARTITION OF, which writes all of its
// rows of pg_attribute in one command (AddNewAttributeTuples in heap.c). ATTACH PARTITION writes those of the columns again
// (MergeAttributesIntoExisting in tablecmds.c). Attribute -6 is tableoid, whose row is never written again.
const bornAttached = `EXISTS (SELECT FROM pg_attribute s JOIN pg_attribute u ON u.attrelid = s.attrelid AND u.attnum > 0 AND u.xmin = s.xmin AND u.cmin = s.cmin
	WHERE s.attrelid = i.inhrelid AND s.attnum = -6)`

// labels is a subquery for everything the texts of the values of column a (pg_attribute) depend on beside the type itself: a line for each
// label of an enum, with the version of the label's row, which a renaming and an undone renaming change too, and for each composite type a
// line with its attributes. Names of attributes are in no text.
const labels = `(WITH RECURSIVE part AS (
		SELECT a.atttypid AS oid
		UNION SELECT u.oid FROM part p JOIN pg_type t ON t.oid = p.oid LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid)
			CROSS JOIN LATERAL (SELECT unnest(ARRAY[t.typbasetype, t.typelem, r.rngsubtype]) UNION ALL SELECT atttypid FROM pg_attribute
				WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped) u (oid) WHERE u.oid <> 0
	) SELECT string_agg(line, E'\n' ORDER BY line) FROM part p CROSS JOIN LATERAL (
		SELECT e.oid || ' ' || e.xmin || ' ' || e.enumlabel FROM pg_enum e WHERE e.enumtypid = p.oid
		UNION ALL SELECT p.oid || ': ' || string_agg(b.attnum || ' ' || b.atttypid, ', ' ORDER BY b.attnum) FROM pg_type t JOIN pg_attribute b ON b.attrelid = t.typrelid
			WHERE t.oid = p.oid AND t.typtype = 'c' AND b.attnum > 0 AND NOT b.attisdropped HAVING count(*) > 0) l (line))`

// factsSQL asks for the tables with the given OIDs, or where an OID is 0 with the given names. Nothing here waits for a lock.
const factsSQL = `
WITH RECURSIVE wanted AS (
	SELECT w.i, coalesce(nullif(w.oid, 0), (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = w.schema AND c.relname = w.name)) AS oid
	FROM unnest($1::text[], $2::text[], $3::oid[]) WITH ORDINALITY AS w (schema, name, oid, i)
), tree AS (
	SELECT oid AS root, oid, '' AS attached, '' AS filled FROM wanted WHERE oid IS NOT NULL
	UNION
	SELECT t.root, i.inhrelid, t.attached || ' ' || i.xmin, CASE WHEN ` + bornAttached + ` THEN t.filled ELSE t.attached || ' ' || i.xmin END
	FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid
), storage AS (
	SELECT t.root, jsonb_agg(jsonb_build_object('oid', c.oid::bigint, 'name', quote_ident(n.nspname) || '.' || quote_ident(c.relname), 'kind', c.relkind,
		'persist', c.relpersistence, 'file', c.relfilenode::bigint, 'toast', c.reltoastrelid::bigint, 'attached', t.attached, 'filled', t.filled, 'identity', c.relreplident,
		'key', (SELECT jsonb_agg(a.attname ORDER BY array_position(k.columns, a.attnum)) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (k.columns)),
		'generated', (SELECT jsonb_agg(a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped
			AND (a.attnum = ANY (k.columns) OR c.relreplident = 'f')),
		'deferred', k.indexrelid IS NULL AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND NOT i.indimmediate
			AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)) ORDER BY c.oid) AS facts
	FROM tree t JOIN pg_class c ON c.oid = t.oid AND (c.relkind <> 'p' OR c.oid = t.root) JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN LATERAL ` + KeyIndex + ` k ON true
	GROUP BY t.root
)
SELECT coalesce(jsonb_agg(CASE WHEN c.oid IS NULL THEN jsonb_build_object('oid', 0) ELSE jsonb_build_object('oid', c.oid::bigint,
	'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'secured', row_security_active(c.oid),
	'restricted', NOT has_schema_privilege(n.oid, 'USAGE'),
	'children', (SELECT jsonb_agg(quote_ident(kn.nspname) || '.' || quote_ident(k.relname)) FROM pg_inherits i JOIN pg_class k ON k.oid = i.inhrelid
		JOIN pg_namespace kn ON kn.oid = k.relnamespace WHERE i.inhparent = c.oid AND c.relkind <> 'p'),
	'storage', s.facts,
	'columns', (SELECT jsonb_agg(jsonb_build_object('number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'notnull', a.attnotnull,
			'readable', has_column_privilege(c.oid, a.attnum, 'SELECT'),
			'version', a.xmin::text, 'labels', ` + labels + `) ORDER BY a.attnum)
		FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) END ORDER BY w.i), '[]'),
	(SELECT jsonb_build_object('oid', p.oid::bigint, 'xmin', p.xmin::text, 'owner', quote_ident(pg_get_userbyid(p.pubowner)), 'all', p.puballtables,
		'kinds', p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, 'viaroot', p.pubviaroot,
		'members', (SELECT jsonb_agg(jsonb_build_object('oid', r.oid::bigint, 'xmin', r.xmin::text, 'table', r.prrelid::bigint, 'name', rn.nspname || '.' || rc.relname,
			'columns', (SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = r.prrelid
				AND to_jsonb(a.attnum) <@ nullif(to_jsonb(r) -> 'prattrs', 'null')),
			'filtered', coalesce(to_jsonb(r) -> 'prqual' <> 'null', false)) ORDER BY r.oid)
			FROM pg_publication_rel r JOIN pg_class rc ON rc.oid = r.prrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace WHERE r.prpubid = p.oid),
		'schemas', %s)
	FROM pg_publication p WHERE p.pubname = $4)
FROM wanted w LEFT JOIN pg_class c ON c.oid = w.oid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN storage s ON s.root = c.oid`

// schemasSQL are the schemas that a publication publishes whole, which came with 15.
const schemasSQL = `(SELECT jsonb_agg(jsonb_build_object('oid', s.oid::bigint, 'xmin', s.xmin::text, 'schema', sn.nspname) ORDER BY s.oid)
	FROM pg_publication_namespace s JOIN pg_namespace sn ON sn.oid = s.pnnspid WHERE s.pnpubid = p.oid)`

// wanted names a table for which facts are asked: by OID, or where the OID is 0 by schema and name.
type wanted struct {
	oid          uint32
	schema, name string
}

// rowQuerier is a connection or a transaction.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// loadFacts reads the facts of the tables and of the publication; publication "" is none.
func loadFacts(ctx context.Context, db rowQuerier, version int, publication string, tables []wanted) (f facts, err error) {
	schemas, names, oids := make([]string, len(tables)), make([]string, len(tables)), make([]uint32, len(tables))
	for i, t := range tables {
		schemas[i], names[i], oids[i] = t.schema, t.name, t.oid
	}
	published := "NULL::jsonb"
	if version >= 15 {
		published = schemasSQL
	}
	var about, publicationJSON []byte
	err = db.QueryRow(ctx, fmt.Sprintf(factsSQL, published), schemas, names, oids, publication).Scan(&about, &publicationJSON)
	if err == nil {
		err = json.Unmarshal(about, &f.Tables)
	}
	if err == nil && publicationJSON != nil {
		f.Publication = &publicationFacts{}
		err = json.Unmarshal(publicationJSON, f.Publication)
	}
	if err != nil {
		return f, fmt.Errorf("reading the catalog of the primary: %w", err)
	}
	return f, nil
}
