package backfill

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"outflow/mapping"
	"outflow/sink/external"
)

// A sweep removes rows by the delete steps of all mappings. Where two mappings fill one target, and the keys of one mapping give the
// rows of the other too, the sweep would remove rows that the primary has in another table. The transaction that removes rows of a table
// therefore counts the keys of all other tables behind the delete steps, and fails where there are fewer than before: referring rows
// are swept first, so the rows that a foreign key takes along are gone already.

// kept is a query of keys that a portion's deletes must leave as they are.
type kept struct {
	query *external.KeysQuery
	held  string // how many keys there were before the deletes
}

// kept are the keys of tables other than the portion's. A delete that the stream or the sweep had to leave out makes smaller numbers
// possible, and nothing is kept then; nor are keys kept that take too long to count.
func (bf *Backfill) kept(ctx context.Context, p *portion) ([]kept, error) {
	if p.chunk.swept == nil || len(p.rows.Deletes) == 0 || bf.cursor.PutOff > 0 || bf.shared.Quarantine {
		return nil, nil
	}
	var all []kept
	for _, m := range bf.mappings {
		for _, table := range slices.Sorted(maps.Keys(m.Keys)) {
			if table == p.chunk.table || bf.relation(table) == nil {
				continue
			}
			err := bf.withKeys(ctx, &sweepItem{m, table, m.Keys[table]}, func(q *external.KeysQuery) error {
				held, err := bf.s.Count(ctx, q)
				all = append(all, kept{q, held})
				return err
			})
			if external.TimedOut(err) && bf.s.Usable() {
				all = all[:len(all)-1]
				continue
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// keep fails the transaction where fewer keys are left than there were. removed is the page of keys that the transaction removes.
func keep(r *external.Round, all []kept, removed *page) {
	for _, k := range all {
		r.Assert("keys", fmt.Sprintf(`SELECT 1 / (pg_catalog.count(*) >= $1::bigint)::int FROM (%s) AS k`, k.query.SQL), lostKept(removed, k.query), k.held)
	}
}

// lostKept says that the keys of two tables are mixed.
func lostKept(removed *page, kept *external.KeysQuery) *external.Error {
	m, table := removed.item.mapping, removed.item.table
	return &external.Error{Mapping: m.Name, Table: table, Verdict: external.NeedsHuman,
		Err: m.KeysFault(table, "the query returns keys such as %s, which the primary does not have, and the delete steps for them remove rows that %s returns as keys of %s. Nothing was removed",
			external.DescribeRow(removed.query.Relation, removed.keys[0].Tuple), ownKeys(m, kept.Mapping), kept.Table),
		Remedy: fmt.Sprintf("make the query return only rows that come from %s, and the delete steps remove only such rows", table)}
}

func ownKeys(m, other *mapping.Mapping) string {
	if m.Name == other.Name {
		return "the same mapping"
	}
	return "mapping " + other.Name
}
