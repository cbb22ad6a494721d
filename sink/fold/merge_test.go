package fold

import (
	"testing"

	"outflow/mapping"
	"outflow/replication/wal"
)

// programs calls f with every program of one and of two transactions.
func programs(f func(program)) {
	id := func(n uint32) uint32 { return uint32(firstXID%(1<<32)) + n }
	for _, before := range []contents{{}, {initial}, {absent, initial}, {initial, initial}} {
		for i, target := range []contents{before, {stale, stale}, {}} {
			if i > 0 && target == before {
				continue
			}
			for _, dropped := range []bool{false, true} {
				for _, one := range operations {
					if !one.possible(before) {
						continue
					}
					f(program{before, target, []operation{one}, []uint32{id(1), id(2)}, dropped, false})
					after := before
					one.apply(&after, 2)
					for _, two := range operations {
						if !two.possible(after) {
							continue
						}
						f(program{before, target, []operation{one, two}, []uint32{id(1), id(2)}, dropped, false})
						f(program{before, target, []operation{one, two}, []uint32{id(2), id(1)}, dropped, false})
					}
				}
			}
		}
	}
}

// partialPrograms are those of one row: both keys are the same one to the mapping, whose target has room for one of them.
func partialPrograms(f func(program)) {
	programs(func(p program) {
		p.partial = true
		t := p.before
		for i, o := range p.ops {
			if !single(t) || !single(p.target) || o.to >= 0 && o.from < 0 && t != (contents{}) {
				return
			}
			o.apply(&t, int8(i)+2)
		}
		if single(t) {
			f(p)
		}
	})
}

func single(t contents) bool { return t[0] == absent || t[1] == absent }

// TestMergeInEveryInterleaving is exhaustive for one and two transactions.
func TestMergeInEveryInterleaving(t *testing.T) {
	states, merges, again, n := 0, 0, 0, 0
	check := func(p program) {
		m := &model{program: p, rule: theRule}
		m.run()
		if m.failure != "" {
			t.Fatal(m.failure)
		}
		n, states, merges, again = n+1, states+m.states, merges+m.merges, again+m.again
	}
	programs(check)
	whole := n
	partialPrograms(check)
	t.Logf("%d programs, %d states, %d merges, %d chunks read again", n, states, merges, again)
	if whole < 500 || n < whole+100 || merges < 10000 || again == 0 {
		t.Error("the model does not get around")
	}
}

// TestWrongMergesFailInTheModel shows that the model tells right from wrong: each of these rules must fail in it.
func TestWrongMergesFailInTheModel(t *testing.T) {
	wrong := map[string]rule{
		// What watermark algorithms do: a row is applied unless its key was changed by a commit in the WAL behind the low watermark.
		"positions in the WAL": {theRule.suspects, false, func(m *model, s *state, rows []mapping.Row, _ wal.Snapshot, changes []Tracked, _ int) []mapping.Row {
			newer := map[string]bool{}
			for _, c := range changes {
				for i, xid := range m.xids {
					newer[c.Key] = newer[c.Key] || (c.XID == xid && s.committed[i] > s.low)
				}
			}
			var kept []mapping.Row
			for _, row := range rows {
				if !newer[keyOfRow(row)] {
					kept = append(kept, row)
				}
			}
			return kept
		}},
		"every row": {theRule.suspects, false, func(_ *model, _ *state, rows []mapping.Row, _ wal.Snapshot, _ []Tracked, _ int) []mapping.Row {
			return rows
		}},
		// What a key that the row has left shows: the page was read before the change, and the snapshot was taken behind it.
		// A delete that a parked destination has missed: no change shows that the row came back under another key.
		"a sweep that does not ask what is still held": {theRule.suspects, true, theRule.merge},
		"a sweep that asks for visibility alone": {theRule.suspects, true, func(_ *model, _ *state, rows []mapping.Row, snapshot wal.Snapshot, changes []Tracked, _ int) []mapping.Row {
			return Merge(rows, keyOfRow, "t", snapshot, changes, len(changes))
		}},
		"no suspects": {func(*XIDs, wal.Snapshot) map[uint32]bool { return nil }, false, theRule.merge},
		"suspects only among those that the snapshot lists": {func(x *XIDs, s wal.Snapshot) map[uint32]bool {
			found := map[uint32]bool{}
			for _, xid := range s.InProgress() {
				found[xid] = x.maybe(xid)
			}
			return found
		}, false, theRule.merge},
	}
	for name, r := range wrong {
		failed := ""
		check := func(p program) {
			if failed == "" {
				m := &model{program: p, rule: r}
				m.run()
				failed = m.failure
			}
		}
		programs(check)
		partialPrograms(check)
		if failed == "" {
			t.Errorf("%s: passes every interleaving", name)
		}
		t.Logf("%s: %s", name, failed)
	}
}

// A TRUNCATE that the read did not see leaves nothing of its table, and only of its table.
func TestMergeAfterTruncate(t *testing.T) {
	row := func(key string) mapping.Row {
		return mapping.Row{Tuple: wal.NewTuple([]wal.Value{{Presence: wal.Text, Text: []byte(key)}})}
	}
	rows := []mapping.Row{row("a"), row("b")}
	snapshot, err := wal.ParseSnapshot("90:110:95,100")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		changes []Tracked
		kept    int
	}{
		{"nothing changed", nil, 2},
		{"truncated, seen", []Tracked{{XID: 99, Table: "t", Key: ""}}, 2},
		{"truncated, in progress", []Tracked{{XID: 100, Table: "t", Key: ""}}, 0},
		{"truncated, behind the end", []Tracked{{XID: 110, Table: "t", Key: ""}}, 0},
		{"another table truncated", []Tracked{{XID: 100, Table: "u", Key: ""}}, 2},
		{"one changed, seen", []Tracked{{XID: 99, Table: "t", Key: "a"}}, 2},
		{"one changed, in progress", []Tracked{{XID: 95, Table: "t", Key: "a"}}, 1},
		{"one changed in another table", []Tracked{{XID: 95, Table: "u", Key: "a"}}, 2},
		{"one changed twice, seen first", []Tracked{{XID: 99, Table: "t", Key: "b"}, {XID: 120, Table: "t", Key: "b"}}, 1},
	} {
		if kept := Merge(rows, keyOfRow, "t", snapshot, c.changes, len(c.changes)); len(kept) != c.kept {
			t.Errorf("%s: %d rows are kept; expected %d", c.name, len(kept), c.kept)
		}
	}
}
