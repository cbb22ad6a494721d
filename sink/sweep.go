package sink

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"outflow/mapping"
	"outflow/replication"
)

// A sweep finds what the external database holds and the primary has no longer: rows that were deleted while nobody
// watched. The mapping's keys say what it holds, page by page; the primary says which of those exist; the others go through
// the mappings' delete steps, merged like any other chunk.

// sweepTarget is one query of a mapping's keys.
type sweepTarget struct {
	mapping *mapping.Mapping
	table   string
	query   string
}

// sweepTargets are the group's keys, in the reverse order of the copy: rows that refer to others go first.
func (bf *backfill) sweepTargets() []sweepTarget {
	var targets []sweepTarget
	for _, i := range slices.Backward(bf.s.order.mappings) {
		m := bf.mappings[i]
		if !bf.group[i] {
			continue
		}
		for _, table := range slices.Backward(bf.s.order.tables) {
			if query, ok := m.Keys[table]; ok {
				targets = append(targets, sweepTarget{m, table, query})
			}
		}
	}
	return targets
}

// nextTarget is the one that the cursor is in, and the one after it; nil where there is none.
func (bf *backfill) nextTarget() (current, following *sweepTarget) {
	targets := bf.sweepTargets()
	i := slices.IndexFunc(targets, func(t sweepTarget) bool {
		return t.mapping.Name == bf.cursor.Mapping && t.table == bf.cursor.Table
	})
	if bf.cursor.Mapping == "" {
		i = 0
	}
	if i >= 0 && i < len(targets) {
		current = &targets[i]
	}
	if i >= 0 && i+1 < len(targets) {
		following = &targets[i+1]
	}
	return current, following
}

// page is what the worker read of a mapping's keys, for the primary to be asked about.
type page struct {
	target    sweepTarget
	following *sweepTarget
	relation  *replication.Relation
	keys      []replication.Tuple
	last      bool
	after     []string
}

// readPage reads the next page of keys from the external database. The worker calls it: the connection is its.
func (bf *backfill) readPage(ctx context.Context) (*page, error) {
	current, following := bf.nextTarget()
	if current == nil {
		return nil, nil
	}
	rel := bf.d.router.relation(current.table)
	tenant := bf.d.router.tenantColumn(rel)
	r := replication.Range{Relation: rel, Tenant: tenant}
	p := &page{target: *current, following: following, relation: rel}
	var after []string
	if bf.cursor.Mapping == current.mapping.Name {
		after = bf.cursor.After
	}
	if err := bf.s.begin(ctx); err != nil { // for its settings
		return nil, err
	}
	defer bf.s.rollback()
	rows, err := bf.s.exec(ctx, keysSQL(rel, r.KeyColumns(), current.query, after, bf.size()), after...)
	if sqlstate(err) == undefinedColumn {
		// The keys do not name a row of the source, as with REPLICA IDENTITY FULL and no primary key: nothing can be asked.
		bf.d.log.Warn("keys: lacks columns of the table's key, so rows that were deleted while nobody watched stay",
			zap.String("mapping", current.mapping.Name), zap.String("table", current.table), zap.Error(err))
		p.last = true
		return p, nil
	}
	if err != nil {
		e := faultOf(current.mapping.Name, func(_ int32, format string, args ...any) *mapping.Fault {
			return current.mapping.KeysFault(current.table, format, args...)
		}, err)
		e.Table = current.table
		return nil, e
	}
	for _, row := range rows {
		values := make([]replication.Value, len(rel.Columns))
		for i := range values {
			values[i].Presence = replication.Null
		}
		values[tenant] = replication.Value{Presence: replication.Text, Text: []byte(bf.d.Tenant)}
		for n, i := range r.KeyColumns() {
			values[i] = replication.Value{Presence: replication.Text, Text: row[n]}
		}
		p.keys = append(p.keys, replication.NewTuple(values))
	}
	if p.last = len(rows) < bf.size() || len(r.KeyColumns()) == 0; !p.last {
		p.after = r.Next(p.keys[len(p.keys)-1])
	}
	return p, nil
}

// keysSQL pages through a keys query in the order of the key.
func keysSQL(rel *replication.Relation, key []int, query string, after []string, limit int) string {
	var columns, parameters []string
	for n, i := range key {
		columns = append(columns, "k."+quoteColumn(rel.Columns[i].Name))
		parameters = append(parameters, fmt.Sprintf("$%d", n+1))
	}
	if len(columns) == 0 {
		return fmt.Sprintf("SELECT FROM (%s) AS k LIMIT 1", query)
	}
	list := strings.Join(columns, ", ")
	where := ""
	if after != nil {
		where = fmt.Sprintf("WHERE (%s) > (%s) ", list, strings.Join(parameters, ", "))
	}
	return fmt.Sprintf("SELECT %s FROM (%s) AS k %sORDER BY %s LIMIT %d", list, query, where, list, limit)
}

func quoteColumn(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// nextSwept asks the primary which keys of the page exist; those that do not are the chunk.
func (bf *backfill) nextSwept(ctx context.Context, copier *replication.Copier) (*chunk, error) {
	p := bf.page
	if p == nil {
		return bf.emptyChunk(ctx, copier, cursor{Phase: phaseSweep, Rows: bf.cursor.Rows}, true)
	}
	found, err := copier.Present(ctx, p.relation, p.keys)
	if err != nil {
		return nil, err
	}
	keyOf := keyFunc(p.relation)
	present := make(map[string]bool, len(found.Rows))
	tenant := bf.d.router.tenantColumn(p.relation)
	for _, row := range found.Rows {
		present[keyOf(row)] = string(row.Value(tenant).Text) == bf.d.Tenant // else it moved to another one
	}
	c := &chunk{Chunk: found, table: p.target.table, relation: p.relation, deletes: true}
	c.Rows = slices.DeleteFunc(slices.Clone(p.keys), func(t replication.Tuple) bool { return present[keyOf(t)] })
	c.next = cursor{Phase: phaseSweep, Table: p.target.table, Mapping: p.target.mapping.Name, After: p.after, Rows: bf.cursor.Rows}
	if p.last {
		c.next.After = nil
		if p.following == nil {
			c.done = true
		} else {
			c.next.Table, c.next.Mapping = p.following.table, p.following.mapping.Name
		}
	}
	return c, nil
}
