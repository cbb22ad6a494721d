package wal

import "testing"

func TestSplitTable(t *testing.T) {
	for text, want := range map[string][2]string{
		"A": {"", "A"}, "s.A": {"s", "A"}, "s.A.b": {"s", "A.b"}, `"a.b"`: {"", "a.b"}, `"my schema"."a.b"`: {"my schema", "a.b"},
		`s."a.b"`: {"s", "a.b"}, `"s".A`: {"s", "A"}, `"o""d"`: {"", `o"d`}, `o"d`: {"", `o"d`}, `"x.y"."""z"""`: {"x.y", `"z"`},
	} {
		if schema, name, ok := SplitTable(text); !ok || schema != want[0] || name != want[1] {
			t.Errorf("%s: %q %q %t", text, schema, name, ok)
		}
		if schema, name, ok := SplitTable(JoinTable(want[0], want[1])); !ok || schema != want[0] || name != want[1] {
			t.Errorf("%s there and back: %q %q %t", text, schema, name, ok)
		}
	}
	for _, text := range []string{"", `"a`, `"a"b`, `"a".`, `"a"."b`, `"a"."b"c`, ".b", "a.", `""`, `a.""`} {
		if schema, name, ok := SplitTable(text); ok {
			t.Errorf("%s: %q %q", text, schema, name)
		}
	}
}
