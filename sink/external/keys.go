package external

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgerror"
	"outflow/internal/pgorder"
	"outflow/mapping"
	"outflow/replication/wal"
)

// KeysQuery is a mapping's query under keys: for one table, as an external database answers the query.
type KeysQuery struct {
	Mapping  *mapping.Mapping
	Table    string
	SQL      string
	Relation *wal.Relation
	Tenant   int
	Columns  []int            // of the relation: the key's less the tenant's
	order    []pgorder.Column // of the columns, in the external database's own types
	source   []string         // types of the same columns on the primary, as far as this database has a cast to the types; else none
}

type keysID struct {
	mapping  string
	relation *wal.Relation
}

// Key is a key held by an external database.
type Key struct {
	Tuple    wal.Tuple // in the types of the primary as far as the database has a cast; all else is NULL
	External []string  // as written by the database
	Primary  []string  // as written by the primary; nil where the primary lacks the key, or was not asked
}

// KeysOf finds the external database's order of a mapping's keys. The caller has opened a transaction.
func (s *Session) KeysOf(ctx context.Context, m *mapping.Mapping, rel *wal.Relation) (*KeysQuery, error) {
	id := keysID{m.Name, rel}
	if q := s.keys[id]; q != nil {
		return q, nil
	}
	q := &KeysQuery{Mapping: m, Table: rel.Table, SQL: m.Keys[rel.Table], Relation: rel, Tenant: s.db.Tables.TenantColumn(rel)}
	for _, i := range rel.Key {
		if i != q.Tenant {
			q.Columns = append(q.Columns, i)
		}
	}
	if err := s.loadTypes(ctx, rel); err != nil {
		return nil, err
	}
	for _, i := range q.Columns {
		name := "k." + QuoteIdentifier(rel.Columns[i].Name)
		q.order = append(q.order, pgorder.Column{Name: name})
		q.source = append(q.source, mapping.TargetType(rel.Columns[i].Type, func(name string) string { return s.types[name] }))
	}
	oids, err := s.describeKeys(ctx, q)
	if err != nil {
		return nil, q.Fault(err)
	}
	var wanted []string
	for n, oid := range oids {
		wanted = append(wanted, fmt.Sprintf("(%d, %d::oid, 0::oid, 0::oid)", n, oid))
	}
	if len(wanted) == 0 {
		s.keys[id] = q
		return q, nil
	}
	rows, err := s.Ask(ctx, 8, pgorder.ColumnsSQL("VALUES "+strings.Join(wanted, ", ")))
	if err == nil && len(rows) != len(oids) {
		err = &wrongAnswer{host: s.db.host(), what: fmt.Sprintf("%d rows instead of %d", len(rows), len(oids))}
	}
	if err != nil {
		return nil, fmt.Errorf("reading how %d columns are ordered: %w", len(oids), err)
	}
	for n, r := range rows {
		o := &q.order[n]
		o.Type, o.Domain = string(r[0]), string(r[1]) == "t"
		o.Less, o.Equal, o.AtLeast, o.Greater = string(r[3]), string(r[4]), string(r[5]), string(r[6])
		if o.Less == "" {
			return nil, q.Fault(fmt.Errorf("the column %s is of type %s, which has no order", o.Name[2:], o.Type))
		}
	}
	s.keys[id] = q
	return q, nil
}

// describeKeys are the types of the keys' columns. Where the database has no cast to the primary's types, q.source becomes nil.
func (s *Session) describeKeys(ctx context.Context, q *KeysQuery) (oids []uint32, err error) {
	err = s.orUncast(ctx, q, pgerror.CannotCoerce, func() error {
		d, err := s.prepare(ctx, "", q.page(nil, 1), nil)
		if err != nil {
			return err
		}
		if len(d.Fields) < len(q.Columns) {
			return &wrongAnswer{host: s.db.host(), what: fmt.Sprintf("%d columns instead of %d", len(d.Fields), len(q.Columns))}
		}
		for _, f := range d.Fields[:len(q.Columns)] {
			oids = append(oids, f.DataTypeOID)
		}
		return nil
	})
	return oids, err
}

// orUncast runs f, and again without casts where the casts fail with an SQLSTATE beginning with state.
func (s *Session) orUncast(ctx context.Context, q *KeysQuery, state string, f func() error) error {
	if q.source == nil {
		return f()
	}
	if err := s.Exec(ctx, "SAVEPOINT outflow_keys"); err != nil {
		return err
	}
	err := f()
	if !strings.HasPrefix(SQLState(err), state) {
		return err
	}
	if err := s.Exec(ctx, "ROLLBACK TO SAVEPOINT outflow_keys"); err != nil {
		return err
	}
	q.source = nil
	return f()
}

// list is the select list: the key in the database's own types, and then in the types of the primary.
func (q *KeysQuery) list() string {
	var own, source []string
	for n, o := range q.order {
		own = append(own, o.Name)
		if q.source != nil {
			source = append(source, fmt.Sprintf("%s::%s", o.Name, q.source[n]))
		}
	}
	return strings.Join(append(own, source...), ", ")
}

// Signature changes with the order of the keys: a place in one order says nothing in another.
func (q *KeysQuery) Signature() string { return pgorder.Signature(q.order) }

// width is the number of columns of list.
func (q *KeysQuery) width() int {
	if q.source == nil {
		return len(q.order)
	}
	return 2 * len(q.order)
}

// all reads all keys.
func (q *KeysQuery) all() string { return fmt.Sprintf("SELECT %s FROM (%s) AS k", q.list(), q.SQL) }

// page reads keys behind a place, as many as the limit. The place's texts are its parameters.
func (q *KeysQuery) page(after []string, limit int) string {
	if len(q.Columns) == 0 {
		return fmt.Sprintf("SELECT FROM (%s) AS k LIMIT 1", q.SQL)
	}
	sql := q.all()
	if after != nil {
		values := make([]string, len(q.order))
		for n, o := range q.order {
			values[n] = o.Value(fmt.Sprintf("$%d", n+1))
		}
		sql += " WHERE " + pgorder.Behind(q.order, values)
	}
	if q.order[0].Less == "" { // only to be described
		return sql
	}
	return sql + fmt.Sprintf(" ORDER BY %s LIMIT %d", pgorder.OrderBy(q.order), limit)
}

// pageBytes bounds the keys of a page.
const pageBytes = 4 << 20

// ReadKeys reads a page; more says that keys follow. A page has at least one key, if there is one, whatever its size. Where a value has no form in the primary's types, all keys come in the database's own types, and the
// primary names the key with the unreadable value.
func (s *Session) ReadKeys(ctx context.Context, q *KeysQuery, after []string, limit int) (keys []Key, more bool, err error) {
	var rows [][][]byte
	err = s.orUncast(ctx, q, "22", func() (err error) {
		rows, more, err = s.answer(ctx, pageBytes, q.width(), q.page(after, limit), after...)
		return err
	})
	if err != nil {
		return nil, false, q.Fault(err)
	}
	if len(rows) >= limit { // a server may pass over the LIMIT
		rows, more = rows[:limit], true
	}
	keys = make([]Key, len(rows))
	for i, row := range rows {
		if keys[i], err = q.key(row, s.db.Tenant); err != nil {
			return nil, false, err
		}
	}
	return keys, more && len(q.Columns) > 0, nil
}

func (q *KeysQuery) key(row [][]byte, tenant string) (Key, error) {
	k := Key{External: make([]string, len(q.Columns))}
	values := make([]wal.Value, len(q.Relation.Columns))
	for i := range values {
		values[i].Presence = wal.Null
	}
	values[q.Tenant] = wal.Value{Presence: wal.Text, Text: []byte(tenant)}
	for n, i := range q.Columns {
		text := row[len(row)-len(q.Columns)+n]
		if text == nil || row[n] == nil {
			return Key{}, q.Fault(fmt.Errorf("the query returns NULL for %s, but no row of the primary has such a key", q.Relation.Columns[i].Name))
		}
		k.External[n] = string(row[n])
		values[i] = wal.Value{Presence: wal.Text, Text: text}
	}
	k.Tuple = wal.NewTuple(values)
	return k, nil
}

// KeyOf are the texts of a row's key, less the tenant's.
func (q *KeysQuery) KeyOf(t wal.Tuple) []string {
	texts := make([]string, len(q.Columns))
	for n, i := range q.Columns {
		texts[n] = string(t.Value(i).Text)
	}
	return texts
}

// Count is the number of keys that the database holds.
func (s *Session) Count(ctx context.Context, q *KeysQuery) (string, error) {
	row, err := s.AskRow(ctx, 1, fmt.Sprintf("SELECT count(*) FROM (%s) AS k", q.SQL))
	if err != nil {
		return "", q.Fault(err)
	}
	return string(row[0]), nil
}

// DeclareKeys opens a cursor over all keys, in the open transaction. The cursor sees the rows as of its declaration.
func (s *Session) DeclareKeys(ctx context.Context, q *KeysQuery) error {
	if err := s.Exec(ctx, "DECLARE outflow_keys NO SCROLL CURSOR FOR "+q.all()); err != nil {
		return q.Fault(err)
	}
	return nil
}

// FetchKeys reads the next keys of the cursor, as many as the limit; none is the end.
func (s *Session) FetchKeys(ctx context.Context, q *KeysQuery, limit int) ([]Key, error) {
	rows, err := s.AskWhole(ctx, pageBytes, q.width(), fmt.Sprintf("FETCH %d FROM outflow_keys", limit))
	if err != nil {
		return nil, q.Fault(err)
	}
	keys := make([]Key, len(rows))
	for i, r := range rows {
		if keys[i], err = q.key(r, s.db.Tenant); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// CloseKeys closes the cursor.
func (s *Session) CloseKeys(ctx context.Context) error { return s.Exec(ctx, "CLOSE outflow_keys") }

// StillHeld returns which of the keys the external database still holds. The caller has opened a transaction, and must be the
// only writer.
//
// A delete step may name less than a key. A key that the database no longer holds may by now belong to another row, under the
// row's new key, and the delete would take the other row.
func (s *Session) StillHeld(ctx context.Context, q *KeysQuery, keys []Key) (map[string]bool, error) {
	still := map[string]bool{}
	if len(q.Columns) == 0 {
		for _, k := range keys {
			still[k.ID()] = true
		}
		return still, nil
	}
	arrays := make([]string, len(q.Columns))
	var unnest, columns, values, list []string
	for n, o := range q.order {
		texts := make([]string, len(keys))
		for i, k := range keys {
			texts[i] = k.External[n]
		}
		arrays[n] = TextArray(texts)
		unnest, columns = append(unnest, fmt.Sprintf("$%d::text[]", n+1)), append(columns, fmt.Sprintf("c%d", n))
		values, list = append(values, o.Value(fmt.Sprintf("u.c%d", n))), append(list, o.Name)
	}
	rows, err := s.AskWhole(ctx, 2*pageBytes, len(list), fmt.Sprintf("SELECT %s FROM (%s) AS k JOIN unnest(%s) AS u (%s) ON %s", strings.Join(list, ", "), q.SQL,
		strings.Join(unnest, ", "), strings.Join(columns, ", "), pgorder.Same(q.order, values)), arrays...)
	if err != nil {
		return nil, q.Fault(err)
	}
	for _, row := range rows {
		k := Key{}
		for _, text := range row {
			k.External = append(k.External, string(text))
		}
		still[k.ID()] = true
	}
	return still, nil
}

// Doubles are the keys that the primary writes in another way, and that the external database holds in the primary's way too: the
// database tells keys apart that are equal to the primary, as a text column does with the keys of a citext column. Doubles are
// the remains of a row whose key was written in another way before. The caller has opened a transaction, which an error ends.
func (s *Session) Doubles(ctx context.Context, q *KeysQuery, keys []Key) (map[string]bool, error) {
	var asked []Key
	for _, k := range keys {
		if k.Primary != nil && !slices.Equal(k.Primary, k.External) {
			asked = append(asked, k)
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	var arrays, columns, other, own []string
	for n, o := range q.order {
		here, there := make([]string, len(asked)), make([]string, len(asked))
		for i, k := range asked {
			here[i], there[i] = k.External[n], k.Primary[n]
		}
		arrays = append(arrays, TextArray(here), TextArray(there))
		columns = append(columns, fmt.Sprintf("h%d, t%d", n, n))
		value := fmt.Sprintf("u.t%d::text", n)
		if q.source != nil {
			value += "::" + q.source[n]
		}
		other, own = append(other, value+"::"+o.Type), append(own, o.Value(fmt.Sprintf("u.h%d", n)))
	}
	var unnest []string
	for n := range arrays {
		unnest = append(unnest, fmt.Sprintf("$%d::text[]", n+1))
	}
	rows, err := s.Ask(ctx, 1, fmt.Sprintf("SELECT DISTINCT u.n FROM (%s) AS k JOIN unnest(%s) WITH ORDINALITY AS u (%s, n) ON %s AND NOT (%s)", q.SQL,
		strings.Join(unnest, ", "), strings.Join(columns, ", "), pgorder.Same(q.order, other), pgorder.Same(q.order, own)), arrays...)
	if state := SQLState(err); state == pgerror.CannotCoerce || strings.HasPrefix(state, "22") {
		return nil, nil // the database cannot hold the key as written by the primary
	}
	if err != nil {
		return nil, q.Fault(err)
	}
	found := map[string]bool{}
	for _, row := range rows {
		n, err := strconv.Atoi(string(row[0]))
		if err != nil || n < 1 || n > len(asked) {
			return nil, fmt.Errorf("%q is not a position among %d keys", row[0], len(asked))
		}
		found[asked[n-1].ID()] = true
	}
	return found, nil
}

// ID tells keys of one database apart.
func (k Key) ID() string { return fmt.Sprintf("%q", k.External) }

// Fault gives an error of the query its place in the mapping's file.
func (q *KeysQuery) Fault(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	if serverError(err) == nil && (IsCanceled(err) || TimedOut(err)) {
		return err
	}
	e := faultOf(q.Mapping.Name, q.place, err)
	e.Table = q.Table
	switch {
	case e.SQLState == pgerror.UndefinedColumn:
		e.Remedy = fmt.Sprintf("make the query return the columns of the key of %s, with their names there: %s", q.Table, strings.Join(q.names(), ", "))
	case e.SQLState == "" && e.Verdict == Retry && serverError(err) == nil && classOf(err) == "":
		e.Verdict, e.Err = NeedsHuman, q.Mapping.KeysFault(q.Table, "%s", err)
		e.Remedy = "make the query return the keys in the form that the primary has"
	}
	return e
}

func (q *KeysQuery) place(_ int32, format string, args ...any) *mapping.Fault {
	return q.Mapping.KeysFault(q.Table, format, args...)
}

func (q *KeysQuery) names() []string {
	names := make([]string, len(q.Columns))
	for n, i := range q.Columns {
		names[n] = q.Relation.Columns[i].Name
	}
	return names
}

// TimedOut reports whether a statement took too long, by the server's limit or by the client's: fewer rows may not.
func TimedOut(err error) bool {
	if e := (*Error)(nil); errors.As(err, &e) && e.SQLState != "" {
		return e.SQLState == pgerror.QueryCanceled
	}
	return SQLState(err) == pgerror.QueryCanceled || serverError(err) == nil && (errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err))
}

// QuoteIdentifier is a name as an identifier of SQL.
func QuoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// TextArray is an array literal.
func TextArray(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}
