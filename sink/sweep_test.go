package sink

import "testing"

func TestTallyOfASweep(t *testing.T) {
	for _, c := range []struct {
		name              string
		held, found, gone int64
		copied            int64
		fault             bool
	}{
		{"nothing is gone", 100, 100, 0, 100, false},
		{"the first copy, keys in another form", 0, 0, 300, 300, true},
		{"the first copy, some keys in another form", 0, 200, 100, 300, true},
		{"the first copy of nothing into an old database", 500, 0, 500, 0, false},
		{"an old database with many rows that are gone", 10_300, 300, 10_000, 300, false},
		{"a resync, keys in another form", 300, 0, 300, 300, true},
		{"a resync after half of the rows went", 600, 300, 300, 300, false},
		{"a mapping that keeps few of the rows", 40, 10, 30, 1000, false},
		{"held is not known, keys in another form", -1, 0, 300, 300, true},
		{"held is not known, a few are gone", -1, 290, 10, 300, false},
	} {
		why := tally{Held: c.held, Found: c.found, Gone: c.gone}.fault(c.copied)
		if (why != "") != c.fault {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}
