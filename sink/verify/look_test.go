package verify

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outflow/mapping"
	"outflow/sink/external"
)

// lookOf is a look at one table: differences by the identity of the row, each "expected|here".
func lookOf(differences map[string]string) look {
	s := &seen{comparedTable: &comparedTable{mapping: &mapping.Mapping{Name: "m"}, name: "t"}, differences: map[string]difference{}}
	for id, d := range differences {
		expected, here, _ := strings.Cut(d, "|")
		s.differences[id] = difference{key: "key " + id, expected: expected, here: here}
	}
	return look{s}
}

// A difference is settled where two looks in a row, of which the first one proves something, have found the same.
func TestKeep(t *testing.T) {
	t.Parallel()
	first := map[string]string{"same": "a|b", "changing": "a|b", "gone": "a|b", "missing": "a|", "extra": "|b", "becomes extra": "a|b"}
	second := map[string]string{"same": "a|b", "changing": "c|b", "missing": "a|", "extra": "|b", "becomes extra": "|b", "new": "a|b"}
	for _, proof := range []bool{true, false} {
		before, now := lookOf(first), lookOf(second)
		now.keep(before, proof)
		if now.open() != 5 {
			t.Errorf("%d rows are open; those that differed at one look only do not count", now.open())
		}
		want := []string{}
		if proof {
			want = []string{"extra", "missing", "same"}
		}
		if got := now[0].settledIDs(); !slices.Equal(got, want) || now.settled() != len(want) {
			t.Errorf("proof %v: settled are %v, expected %v", proof, got, want)
		}
	}
}

func TestComparisonOfALook(t *testing.T) {
	t.Parallel()
	all := map[string]string{"a": "x|", "b": "|y", "c": "x|y", "d": "x|z"}
	now := lookOf(all)
	now.keep(lookOf(all), true)
	now[0].rows = 7
	want := Comparison{Tables: []TableComparison{{Mapping: "m", Table: "t", Rows: 7, Missing: 1, Extra: 1, Changed: 2,
		First: []Difference{{"missing", "key a"}, {"extra", "key b"}, {"changed", "key c"}, {"changed", "key d"}}}}}
	if diff := cmp.Diff(want, now.comparison()); diff != "" {
		t.Errorf("(-expected +found):\n%s", diff)
	}
	many := map[string]string{}
	for i := range 3 * firstShown {
		many[strings.Repeat("x", i+1)] = "x|"
	}
	now = lookOf(many)
	now.keep(lookOf(many), true)
	if c := now.comparison().Tables[0]; c.Missing != 3*firstShown || len(c.First) != firstShown {
		t.Errorf("%d are missing, %d are shown", c.Missing, len(c.First))
	}
}

// Time grows with the rows to compare, and has a bound.
func TestPatience(t *testing.T) {
	t.Parallel()
	v := &Verifier{Options: external.Options{StatementTimeout: time.Minute, LockTimeout: 10 * time.Second}}
	if v.patience() != answerPatience {
		t.Errorf("%s for a statement that takes moments", v.patience())
	}
	for rows, want := range map[int]time.Duration{0: 70 * time.Second, compareRows: 71 * time.Second, 60 * compareRows: 130 * time.Second, 1 << 40: verifyTimeout /* a time of seconds first would be too long for a number */} {
		if got := v.patienceFor(rows); got != want {
			t.Errorf("%s for %d rows, expected %s", got, rows, want)
		}
	}
	v.Options.StatementTimeout = time.Second
	if v.patience() != 11*time.Second {
		t.Errorf("%s for a statement that takes moments", v.patience())
	}
}

func TestQuoteLiteral(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "''", "a": "'a'", "it's": "'it''s'", `\`: `'\'`} {
		if got := quoteLiteral(text); got != want {
			t.Errorf("%s, expected %s", got, want)
		}
	}
}
