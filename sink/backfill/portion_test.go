package backfill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/replication/tableread"
	"outflow/replication/wal"
	"outflow/sink/external"
)

// refusal is the error of an external database that refuses a row.
func refusal(state string) *external.Error {
	return &external.Error{Verdict: external.RowFault, SQLState: state, Err: errors.New("refused")}
}

// items are rows of item with the ids.
func items(ids ...string) (rows []mapping.Row) {
	for _, id := range ids {
		rows = append(rows, mapping.Row{Tuple: insertOf("t", id).New})
	}
	return rows
}

func same(t *testing.T, what string, want, got Cursor) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tally{})); diff != "" {
		t.Errorf("%s (-expected +found):\n%s", what, diff)
	}
}

// The cursor behind a part of a chunk is the place behind the part's last row, and behind the last part the chunk's own.
func TestPortionsOfACopy(t *testing.T) {
	t.Parallel()
	bf := &Backfill{s: &external.Session{Order: external.Order{Fingerprint: "now"}},
		cursor: Cursor{Phase: phaseCopy, Table: "item", After: []string{"0"}, Sort: "s", Rows: 7, Pass: 1, PutOff: 2, Before: 3, Strict: true, Order: "before",
			Copied: map[string]int64{"item": 5, "other": 2}}}
	behind := Cursor{Phase: phaseCopy, Table: "item", After: []string{"4"}, Sort: "s", Rows: 11, Copied: map[string]int64{"item": 9, "other": 2}}
	c := &chunk{Chunk: tableread.Chunk{Relation: tableItem, Tenant: 0}, table: "item", relation: tableItem, next: behind, done: true}
	rows := &mapping.Rows{Relation: tableItem, Upserts: items("1", "2", "3", "4")}

	p := bf.portion(c, rows, 1, 2)
	if len(p.rows.Upserts) != 2 || string(p.rows.Upserts[0].Tuple.Value(1).Text) != "2" || p.done || p.rows.Relation != tableItem {
		t.Errorf("the middle is %+v", p)
	}
	same(t, "behind the middle", Cursor{Phase: phaseCopy, Table: "item", After: []string{"3"}, Sort: "s", Rows: 9, Pass: 1, PutOff: 2, Before: 3, Strict: true,
		Order: "now", Copied: map[string]int64{"item": 7, "other": 2}}, p.next)

	want := behind
	want.Pass, want.PutOff, want.Before, want.Strict, want.Order = 1, 2, 3, true, "now"
	if p = bf.portion(c, rows, 2, 2); len(p.rows.Upserts) != 2 || !p.done {
		t.Errorf("the end is %+v", p)
	}
	same(t, "behind the end", want, p.next)
	if p = bf.portion(c, rows, 0, 4); p.rows != rows || !p.done {
		t.Errorf("the whole is %+v", p)
	}
	same(t, "behind the whole", want, p.next)
	if bf.cursor.Copied["item"] != 5 {
		t.Error("the stored cursor was changed")
	}

	// A table whose key is the tenant's column alone has no place within.
	keyless := *tableItem
	keyless.Key = []int{0}
	c.Relation = &keyless
	if p = bf.portion(c, rows, 0, 1); p.done || !slices.Equal(p.next.After, bf.cursor.After) || p.next.Rows != bf.cursor.Rows {
		t.Errorf("within a table of one chunk: %+v", p)
	}
}

// A row that is removed because the primary has its key in another form is copied in the next pass.
func TestPortionsOfASweep(t *testing.T) {
	t.Parallel()
	bf := &Backfill{s: &external.Session{}, cursor: Cursor{Phase: phaseSweep, Rows: 7, PutOff: 1}}
	key := func(id string, primary ...string) external.Key {
		return external.Key{Tuple: insertOf("t", id).New, External: []string{id}, Primary: primary}
	}
	c := &chunk{table: "item", relation: tableItem, swept: &page{}, removed: []external.Key{key("1"), key("2", "02"), key("3", "03")},
		next: Cursor{Phase: phaseSweep, Table: "item", After: []string{"9"}, Rows: 7}, done: true}
	rows := &mapping.Rows{Relation: tableItem, Deletes: items("1", "2", "3")}
	p := bf.portion(c, rows, 0, 2)
	if len(p.rows.Deletes) != 2 || p.done {
		t.Errorf("the first part is %+v", p)
	}
	same(t, "behind the first part", Cursor{Phase: phaseSweep, Table: "item", After: []string{"2"}, Rows: 7, PutOff: 2, Copied: map[string]int64{"item": 0}}, p.next)
	if p = bf.portion(c, rows, 0, 3); p.next.PutOff != 3 || !p.done {
		t.Errorf("the whole is %+v", p)
	}
}

// Behind the last row of a pass that has put rows off comes another pass, which puts nothing off where the pass before was of no help.
func TestFollowingPasses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at     Cursor
		done   bool
		want   Cursor
		nobody bool // the copy is complete
	}{
		"in the middle":         {Cursor{Phase: phaseCopy, Table: "item", PutOff: 3}, false, Cursor{Phase: phaseCopy, Table: "item", PutOff: 3}, false},
		"complete":              {Cursor{Phase: phaseSweep, Pass: 2, Before: 3}, true, Cursor{Phase: phaseSweep, Pass: 2, Before: 3}, true},
		"behind the first pass": {Cursor{Phase: phaseSweep, PutOff: 3, Order: "o", Rows: 9}, true, Cursor{Phase: phaseCopy, Pass: 1, Before: 3, Order: "o"}, false},
		"behind a pass that helped": {Cursor{Phase: phaseSweep, Pass: 1, PutOff: 2, Before: 3}, true,
			Cursor{Phase: phaseCopy, Pass: 2, Before: 2}, false},
		"behind a pass that did not help": {Cursor{Phase: phaseSweep, Pass: 1, PutOff: 3, Before: 3}, true,
			Cursor{Phase: phaseCopy, Pass: 2, Before: 3, Strict: true}, false},
		"behind a pass that made it worse": {Cursor{Phase: phaseSweep, Pass: 4, PutOff: 5, Before: 3}, true,
			Cursor{Phase: phaseCopy, Pass: 5, Before: 5, Strict: true}, false},
	} {
		next, text := (&portion{next: test.at, done: test.done}).following()
		same(t, name, test.want, next)
		if (text == "") != test.nobody || text != "" && text != next.String() {
			t.Errorf("%s: the metadata gets %q", name, text)
		}
	}
}

// A refusal for which a row still to be copied or swept may be the cause is put off, within limits.
func TestRefusalsPutOff(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state string
		at    Cursor
		want  bool
	}{
		"a reference":                          {pgerror.ForeignKeyViolation, Cursor{}, true},
		"a reference in a later pass":          {pgerror.ForeignKeyViolation, Cursor{Pass: 3}, true},
		"a reference in a strict pass":         {pgerror.ForeignKeyViolation, Cursor{Pass: 3, Strict: true}, false},
		"a unique value":                       {pgerror.UniqueViolation, Cursor{}, true},
		"a unique value behind the sweep":      {pgerror.UniqueViolation, Cursor{Pass: 1}, false},
		"an exclusion constraint":              {pgerror.ExclusionViolation, Cursor{}, true},
		"an exclusion constraint in pass 1":    {pgerror.ExclusionViolation, Cursor{Pass: 1}, false},
		"a check, which another row cannot do": {"23514", Cursor{}, false},
	} {
		if got := (&Backfill{cursor: test.at}).mayPutOff(refusal(test.state)); got != test.want {
			t.Errorf("%s is put off: %v", name, got)
		}
	}
}

// A live change is put off only to a copy that fills every mapping of the change, and with errors that another pass may end.
func TestLiveChangesThatAreNotPutOff(t *testing.T) {
	t.Parallel()
	m, err := mapping.Load("m.yaml", []byte(itemsYAML))
	if err != nil {
		t.Fatal(err)
	}
	bf := &Backfill{mappings: []*mapping.Mapping{m, m}, group: []bool{true, false}, stored: First.String(), cursor: First, log: zap.NewNop()}
	unique := refusal(pgerror.UniqueViolation)
	unique.Table = "item"
	for name, test := range map[string]struct {
		bf     *Backfill
		behind []bool
		e      *external.Error
	}{
		"no copy":                              {nil, []bool{true, true}, unique},
		"a refusal that no pass ends":          {bf, []bool{true, false}, refusal("23514")},
		"a mapping that is complete":           {bf, []bool{true, true}, unique},
		"a refusal of which the table is open": {bf, []bool{false, true}, refusal(pgerror.UniqueViolation)},
	} {
		at, err := test.bf.PutOffLive(context.Background(), test.behind, nil, test.e)
		if at != nil || err != nil {
			t.Errorf("%s: put off to %v, %v", name, at, err)
		}
	}
	if bf.cursor.PutOff != 0 {
		t.Errorf("the cursor counts %d", bf.cursor.PutOff)
	}
	moved := Cursor{Phase: phaseCopy, PutOff: 4}
	if bf.Committed(moved); bf.stored != moved.String() || bf.cursor.PutOff != 4 {
		t.Errorf("behind the commit the cursor is %s", bf.stored)
	}
}

// Fewer rows may help against a refused row, and against a statement that took too long.
func TestTooMuch(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"no error":  {nil, false},
		"a row":     {refusal("23505"), true},
		"a timeout": {fmt.Errorf("waiting: %w", context.DeadlineExceeded), true},
		"lost":      {errors.New("no route"), false},
		"a mapping": {&external.Error{Verdict: external.NeedsHuman, Err: errors.New("no such column")}, false},
	} {
		if got := tooMuch(test.err); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// An error about one row names the row; an error about several rows cannot.
func TestNamedRow(t *testing.T) {
	t.Parallel()
	bf := &Backfill{}
	one := &mapping.Rows{Relation: tableItem, Deletes: items("7")}
	if e := external.AsError(bf.nameRow(refusal("23505"), one)); e.Key != "tenant=t, id=7" || e.Table != "item" {
		t.Errorf("%+v", e)
	}
	late := fmt.Errorf("waiting: %w", context.DeadlineExceeded)
	if e := external.AsError(bf.nameRow(late, one)); e.Key == "" || e.Remedy == "" {
		t.Errorf("%+v", e)
	}
	for name, err := range map[string]error{"several rows": refusal("23505"), "lost": errors.New("no route")} {
		rows := one
		if name == "several rows" {
			rows = &mapping.Rows{Relation: tableItem, Upserts: items("7", "8")}
		}
		if got := bf.nameRow(err, rows); !errors.Is(got, err) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Chunks grow while they are quick, and shrink when they are slow, within bounds; a single row cannot be made smaller.
func TestPace(t *testing.T) {
	t.Parallel()
	var p Pace
	steps := func(took time.Duration, n int) int {
		for range n {
			p.resize(took)
		}
		return p.size()
	}
	if p.size() != chunkRows {
		t.Errorf("the first chunk has %d rows", p.size())
	}
	if n := steps(0, 1); n != 2*chunkRows {
		t.Errorf("behind a quick chunk: %d rows", n)
	}
	if n := steps(chunkTime, 1); n != 2*chunkRows {
		t.Errorf("behind a chunk in time: %d rows", n)
	}
	if n := steps(2*chunkTime, 1); n != 2*chunkRows {
		t.Errorf("behind a chunk almost in time: %d rows", n)
	}
	if n := steps(0, 20); n != chunkMax {
		t.Errorf("behind many quick chunks: %d rows", n)
	}
	if n := steps(time.Second, 1); n != chunkMax/2 {
		t.Errorf("behind a slow chunk: %d rows", n)
	}
	if n := steps(time.Second, 20); n != chunkMin {
		t.Errorf("behind many slow chunks: %d rows", n)
	}
	if !p.smaller(8) || p.size() != 4 {
		t.Errorf("after eight rows were too many: %d rows", p.size())
	}
	if n := steps(time.Second, 1); n != 4 {
		t.Errorf("a slow chunk smaller than the smallest makes %d rows", n)
	}
	if p.smaller(1) || p.size() != 1 {
		t.Errorf("after one row was too much: %d rows", p.size())
	}
}

// The count of a table's copied rows begins again where the table is begun again.
func TestCopiedRows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at   Cursor
		want int64
	}{
		"the first chunk of all":     {Cursor{}, 3},
		"a later chunk":              {Cursor{Table: "item", After: []string{"1"}, Copied: map[string]int64{"item": 4}}, 7},
		"begun again":                {Cursor{Table: "item", Copied: map[string]int64{"item": 4}}, 3},
		"the first chunk of a table": {Cursor{Table: "other", After: []string{"1"}, Copied: map[string]int64{"item": 4}}, 3},
	} {
		before := test.at.Copied["item"]
		if got := test.at.copied("item", 3)["item"]; got != test.want || test.at.Copied["item"] != before {
			t.Errorf("%s: %d rows, and %d in the cursor", name, got, test.at.Copied["item"])
		}
	}
}

// A chunk is read in the key that the tracked changes have, or again.
func TestSameKey(t *testing.T) {
	t.Parallel()
	altered := func(change func(*wal.Relation)) *wal.Relation {
		rel := *tableItem
		rel.Columns, rel.Key = slices.Clone(rel.Columns), slices.Clone(rel.Key)
		change(&rel)
		return &rel
	}
	for name, test := range map[string]struct {
		rel  *wal.Relation
		want bool
	}{
		"the same":            {tableItem, true},
		"another column":      {altered(func(r *wal.Relation) { r.Columns = append(r.Columns, wal.Column{Name: "v"}) }), true},
		"a renamed column":    {altered(func(r *wal.Relation) { r.Columns[1].Name = "no" }), false},
		"another type":        {altered(func(r *wal.Relation) { r.Columns[1].TypeOID = 20 }), false},
		"another length":      {altered(func(r *wal.Relation) { r.Columns[1].TypeMod = 9 }), false},
		"fewer columns":       {altered(func(r *wal.Relation) { r.Key = r.Key[:1] }), false},
		"in another order":    {altered(func(r *wal.Relation) { r.Key = []int{1, 0} }), false},
		"a column moved away": {altered(func(r *wal.Relation) { slices.Reverse(r.Columns); r.Key = []int{1, 0} }), true},
	} {
		c := insertOf("t", "1")
		c.Relation = test.rel
		if got := sameKey(test.rel, tableItem); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
		bf := &Backfill{reads: map[string]bool{"item": true}, active: true}
		bf.Track(5, []wal.Change{c})
		if again := bf.anotherKey(&chunk{table: "item", relation: tableItem}); again == test.want {
			t.Errorf("%s: the chunk is read again: %v", name, again)
		}
	}
}
