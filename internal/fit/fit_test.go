package fit

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		text string
		at   Place
		want string
	}{
		{"", Value, ""},
		{"as it is: ä日😀", Value, "as it is: ä日😀"},
		{strings.Repeat("x", 64), Value, strings.Repeat("x", 64)},
		{strings.Repeat("x", 63) + "é", Value, strings.Repeat("x", 61) + "..."},
		{strings.Repeat("x", 60) + "ééé", Value, strings.Repeat("x", 60) + "..."},
		{"a\x00b\nc\x1b[31m\u0085\u2028\u202ed", Value, "a b c [31m   d"},
		{"caf\xe9", Value, "caf?"},
		{"\xff\xfe\xfd", Value, "?"},
		{"xyz", 2, ".."},
	} {
		if got := Text(c.text, c.at); got != c.want {
			t.Errorf("%q became %q, expected %q", c.text, got, c.want)
		}
	}
}

func TestEncoded(t *testing.T) {
	for _, c := range [][3]string{
		{"ä日😀", "UTF8", "ä日😀"}, {"ä日😀", "SQL_ASCII", "ä日😀"}, {"ä日😀", "LATIN1", `ä\u65e5\ud83d\ude00`},
		{"ä日", "EUC_JP", `\u00e4\u65e5`}, {"plain", "WIN1252", "plain"}, {"ä", "", `\u00e4`},
	} {
		if got := Encoded(c[0], c[1]); got != c[2] {
			t.Errorf("%q for %s became %q, expected %q", c[0], c[1], got, c[2])
		}
	}
	object, err := json.Marshal(map[string]string{"name": "ä日😀"})
	if err != nil {
		t.Fatal(err)
	}
	var read map[string]string
	if err := json.Unmarshal([]byte(Encoded(string(object), "EUC_KR")), &read); err != nil || read["name"] != "ä日😀" {
		t.Errorf("JSON is read back as %v, %v", read, err)
	}
}

func TestCheck(t *testing.T) {
	for _, name := range []string{"main", "ä 日", strings.Repeat("x", int(Name))} {
		if err := Check(name, Name); err != nil {
			t.Error(err)
		}
	}
	for name, want := range map[string]string{strings.Repeat("x", 201): "longer than 200 bytes", "a\x00": "control character",
		"a\x1b[2J": "control character", "\xff": "UTF-8", "a\u202eb": "control character"} {
		if err := Check(name, Name); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 200 {
			t.Errorf("%.20q is refused with %v, expected %s", name, err, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\x00é\xff", 3)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 0 || n > 1<<20 {
			t.Skip()
		}
		got := Text(s, Place(n))
		if len(got) > n || !utf8.ValidString(got) || strings.IndexFunc(got, IsControl) >= 0 {
			t.Errorf("%q for %d bytes became %q", s, n, got)
		}
		if again := Text(got, Place(n)); again != got {
			t.Errorf("%q became %q, and then %q", s, got, again)
		}
		for _, encoding := range []string{"LATIN1", "EUC_JP"} {
			for _, r := range Encoded(got, encoding) {
				if r > 0xff || encoding != "LATIN1" && r > 0x7f {
					t.Errorf("%q for %s has %q", got, encoding, r)
				}
			}
		}
	})
}
