package wal

import "testing"

func TestLSNHasTheFormOfTheServer(t *testing.T) {
	for text, want := range map[string]LSN{"0/0": 0, "16/B374D848": 0x16B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1, "1/A": 1<<32 + 10} {
		got, err := ParseLSN(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %d %s, %v; expected %d", text, got, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "/", "1/", "/1", "1/x", "1/2/3", "100000000/0", "0/100000000", "-1/0", " 1/0"} {
		if got, err := ParseLSN(text); err == nil {
			t.Errorf("%q was taken for %s", text, got)
		}
	}
}
