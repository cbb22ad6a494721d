package strictyaml_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/strictyaml"
)

// even is a type with an UnmarshalText of its own.
type even string

func (e *even) UnmarshalText(text []byte) error {
	if len(text)%2 != 0 {
		return fmt.Errorf("expected an even number of characters, not %q", text)
	}
	*e = even(text)
	return nil
}

type item struct {
	Name  string `yaml:"name"`
	Ports []int  `yaml:"ports"`
}

type config struct {
	Name    string              `yaml:"name"`
	On      bool                `yaml:"on"`
	Count   int                 `yaml:"count"`
	Small   int8                `yaml:"small"`
	Ratio   float64             `yaml:"ratio"`
	Every   time.Duration       `yaml:"every"`
	Size    strictyaml.ByteSize `yaml:"size"`
	Even    even                `yaml:"even"`
	Items   []item              `yaml:"items"`
	Texts   map[string]string   `yaml:"texts"`
	Section *item               `yaml:"section"`
	Ignored string
}

func lookup(name string) (string, bool) {
	values := map[string]string{"NAME": "acme", "ODD": "s3cret!", "YAML": "{a: &x [*x]}", "NULL": "null", "AGAIN": "${NAME}"}
	value, ok := values[name]
	return value, ok
}

func TestDecode(t *testing.T) {
	src := `
name: 42
on: true
count: "7"
small: -128
ratio: 0.5
every: 1m30s
size: 8MiB
even: abcd
items:
  - {name: a, ports: [1, 2]}
  - name: b
texts: {a.b: x, c: "${NAME}-$1-$$", d: "${YAML}", e: "${NULL}${AGAIN}"}
section: {name: s}
`
	got := config{Ignored: "kept"}
	if _, err := strictyaml.Decode("f.yaml", []byte(src), &got, strictyaml.WithEnv(lookup)); err != nil {
		t.Fatal(err)
	}
	want := config{
		Name: "42", On: true, Count: 7, Small: -128, Ratio: 0.5, Every: 90 * time.Second, Size: 8 << 20, Even: "abcd",
		Items:   []item{{Name: "a", Ports: []int{1, 2}}, {Name: "b"}},
		Texts:   map[string]string{"a.b": "x", "c": "acme-$1-$$", "d": "{a: &x [*x]}", "e": "null${NAME}"},
		Section: &item{Name: "s"}, Ignored: "kept",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeKeepsDefaults(t *testing.T) {
	for src, want := range map[string]config{
		"":                         {Name: "d", Section: &item{Name: "x"}},
		"# only a comment\n":       {Name: "d", Section: &item{Name: "x"}},
		"---\n":                    {Name: "d", Section: &item{Name: "x"}},
		"count: 1\n":               {Name: "d", Count: 1, Section: &item{Name: "x"}},
		"section: {ports: [1]}\n":  {Name: "d", Section: &item{Name: "x", Ports: []int{1}}},
		"section:\nitems:\ntexts:": {Name: "d"},
	} {
		got := config{Name: "d", Section: &item{Name: "x"}}
		if _, err := strictyaml.Decode("f.yaml", []byte(src), &got); err != nil {
			t.Errorf("%q: %v", src, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", src, diff)
		}
	}
}

const keys = "name, on, count, small, ratio, every, size, even, items, texts, section"

func TestDecodeFaults(t *testing.T) {
	tests := []struct{ name, src, want string }{
		{"unknown key", "nmae: x\nzzzzzzz: 1", `f.yaml:1:1: unknown key "nmae" (did you mean "name"?); allowed here: ` + keys + `
f.yaml:2:1: unknown key "zzzzzzz"; allowed here: ` + keys},
		{"unknown key inside", "items:\n  - name: a\n    port: [1]", `f.yaml:3:5: unknown key "port" (did you mean "ports"?); allowed here: name, ports`},
		{"duplicate", "name: a\non: true\nname: b", `f.yaml:3:1: duplicate key "name"; it was given in line 1`},
		{"duplicate in map", "texts:\n  a: b\n  a: c", `f.yaml:3:3: duplicate key "a"; it was given in line 2`},
		{"scalars", "on: yes\ncount: 1.5\nsmall: 200\nratio: x\nevery: abc\nsize: 8 MB\neven: abc", `f.yaml:1:5: expected true or false, found "yes"
f.yaml:2:8: expected an integer such as 100, found "1.5"
f.yaml:3:8: expected an integer that fits 8 bits, found "200"
f.yaml:4:8: expected a number such as 0.5, found "x"
f.yaml:5:8: expected a duration such as 5m, 30s or 100ms, found "abc"
f.yaml:6:7: expected a size such as 64KiB, 8MiB, 1GiB or a number of bytes, found "8 MB"
f.yaml:7:7: expected an even number of characters, not "abc"`},
		{"kinds", "name: [a]\ncount: {a: 1}\nevery:\neven: {}\nitems: 3\ntexts: []\nsection: 1\non: ~", `f.yaml:1:7: expected text, found a list
f.yaml:2:8: expected an integer, found a mapping
f.yaml:3:7: expected a duration such as 5m, found no value
f.yaml:4:7: expected a single value, found a mapping
f.yaml:5:8: expected a list, found text
f.yaml:6:8: expected a mapping (key: value), found a list
f.yaml:7:10: expected a mapping (key: value), found text
f.yaml:8:5: expected true or false, found no value`},
		{"list at the top", "- a", `f.yaml:1:1: expected a mapping (key: value), found a list`},
		{"keys", "? [a]\n: b\n~: c", `f.yaml:1:3: expected a key that is plain text
f.yaml:3:1: expected a key that is plain text`},
		{"anchor and alias", "texts: &t {a: b}\nitems: *t", `f.yaml:1:8: anchors (&name) are not allowed; quote a value that starts with &
f.yaml:2:8: aliases (*name) are not allowed; quote a value that starts with *`},
		{"unknown alias", "name: *s3cret", `f.yaml:1:7: not valid YAML: aliases (*name) are not allowed; quote a value that starts with *`},
		{"merge", "<<: {name: x}", `f.yaml:1:1: unknown key "<<"; allowed here: ` + keys},
		{"tag", "name: !!binary aGk=", `f.yaml:1:7: tags (!name) are not allowed; quote a value that starts with !`},
		{"two documents", "name: a\n---\nname: b", `f.yaml:2:1: a second document starts here; only one is allowed in a file`},
		{"syntax", "name: a\nitems: [1\non: true", `f.yaml:3:3: not valid YAML: while parsing a flow sequence: did not find expected ',' or ']'`},
		{"tab", "items:\n\t- x", `f.yaml:2:1: not valid YAML: while scanning for the next token: found character that cannot start any token`},
		{"not UTF-8", "name: é\xff", `f.yaml:1:8: this is not UTF-8 text`},
		{"control character", "name: a\non: \x00", `f.yaml:2:5: the control character U+0000 is not allowed`},
		{"unset", "name: ${NOPE}", `f.yaml:1:7: environment variable NOPE is not set`},
		{"form", "name: \"${NAME:-x}\"", `f.yaml:1:7: after ${ expected the name of an environment variable and }; only the form ${NAME} is allowed`},
		{"expanded", "count: ${ODD}\neven: ${ODD}", `f.yaml:1:8: expected an integer such as 100, found the value of ${ODD}
f.yaml:2:7: the value of ${ODD} is not allowed here`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var c config
			doc, err := strictyaml.Decode("f.yaml", []byte(test.src), &c, strictyaml.WithEnv(lookup))
			if doc == nil || err == nil {
				t.Fatalf("document %v, error %v", doc, err)
			}
			if diff := cmp.Diff(test.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			var one *strictyaml.Error
			if !errors.As(err, &one) {
				t.Errorf("no *Error in %T", err)
			}
		})
	}
}

func TestDecodeBounds(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	many := strings.Builder{}
	for i := range 1000 {
		fmt.Fprintf(&many, "unknown%d: 1\n", i)
	}
	big := func(string) (string, bool) { return strings.Repeat("x", 1<<19), true }
	for name, test := range map[string]struct{ src, want string }{
		"deep":     {"name: " + deep, "depth"},
		"long":     {strings.Repeat("#\n", 1<<20), "at most 1MiB is allowed"},
		"many":     {many.String(), "too many faults; the rest is not shown"},
		"expanded": {"name: ${A}${B}${C}", "expand to more than 1MiB"},
	} {
		var c config
		_, err := strictyaml.Decode("f.yaml", []byte(test.src), &c, strictyaml.WithEnv(big))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %.500v", name, err)
		}
		var faults strictyaml.Errors
		if errors.As(err, &faults) && len(faults) > 51 {
			t.Errorf("%s: %d faults", name, len(faults))
		}
	}
}

func TestSet(t *testing.T) {
	var c config
	var list []strictyaml.ByteSize
	for _, err := range []error{
		strictyaml.Set(&c.Name, "a,b"), strictyaml.Set(&c.Every, "5m"),
		strictyaml.Set(&c.Even, "ab"), strictyaml.Set(&list, "1KiB, 2"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if c.Name != "a,b" || c.Every != 5*time.Minute || c.Even != "ab" || !cmp.Equal(list, []strictyaml.ByteSize{1024, 2}) {
		t.Errorf("%+v %v", c, list)
	}
	if err := strictyaml.Set(&list, ""); err != nil || list == nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if err := strictyaml.Set(&c.Count, "hunter2"); err == nil || err.Error() != "expected an integer such as 100" {
		t.Error(err)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]strictyaml.ByteSize{
		"0": 0, "1": 1, "64KiB": 64 << 10, "8MiB": 8 << 20, "1GiB": 1 << 30, "1000": 1000, "1536KiB": 1536 << 10,
	} {
		var got strictyaml.ByteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want || got.String() != text {
			t.Errorf("%s: %d %v %s", text, got, err, got)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "1 MiB", "1MB", "9223372036854775808", "8589934592GiB"} {
		var got strictyaml.ByteSize
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q gives %d", text, got)
		}
	}
}

// A number without a sign says which numbers fit: a port, say.
func TestDecodeUnsigned(t *testing.T) {
	for text, found := range map[string]string{"70000": `"70000"`, "-1": `"-1"`, "http": `"http"`} {
		var got struct {
			Port uint16 `yaml:"port"`
		}
		want := "f.yaml:1:7: expected an integer from 0 to 65535, found " + found
		if _, err := strictyaml.Decode("f.yaml", []byte("port: "+text), &got); err == nil || err.Error() != want {
			t.Errorf("%s: %v; expected %s", text, err, want)
		}
	}
}
