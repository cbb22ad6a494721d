package strictyaml_test

import (
	"strings"
	"testing"

	"outflow/internal/strictyaml"
)

func TestAt(t *testing.T) {
	src := "name: x\nitems:\n  - name: a\n  - {name: b, ports: [1, 22]}\ntexts:\n  a: x\n  a.b: y\n"
	var c config
	doc, err := strictyaml.Decode("f.yaml", []byte(src), &c)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		line, column int
		has          bool
	}{
		"":                  {1, 1, true},
		"name":              {1, 7, true},
		"items":             {3, 3, true},
		"items[1]":          {4, 5, true},
		"items[1].ports[1]": {4, 26, true},
		"items[1].ports[7]": {4, 22, false},
		"items[0].ports":    {3, 5, false},
		"texts.a":           {6, 6, true},
		"texts.a.b":         {7, 8, true},
		"nowhere.at.all":    {1, 1, false},
	} {
		line, column := doc.At(path)
		if line != want.line || column != want.column || doc.Has(path) != want.has {
			t.Errorf("%s: %d:%d %t, want %v", path, line, column, doc.Has(path), want)
		}
	}
	if got := doc.Errorf("items[0].ports", "at least %d", 1).Error(); got != "f.yaml:3:5: at least 1" {
		t.Error(got)
	}
}

// TestPosition looks for a word in the decoded string and expects it where it
// stands in the file.
func TestPosition(t *testing.T) {
	for name, src := range map[string]string{
		"literal":          "name: |\n  é SELECT\n    WORD\n",
		"literal, strip":   "count: 1\nname: |-  # why\n\n  SELECT 1,\n\n  é WORD",
		"literal, indent":  "name: |4\n      SELECT\n    WORD\n",
		"literal, CRLF":    "name: |\r\n  SELECT\r\n    WORD\r\n",
		"folded":           "name: >\n  SELECT\n  é\n\n  WORD\n",
		"plain":            "name: SELECT WORD",
		"plain, two lines": "name: é SELECT\n  x WORD",
		"single quoted":    "name: 'SELECT é WORD'",
		"double quoted":    "name: \"SELECT é WORD\"",
		"flow":             "{count: 1, name: SELECT WORD}",
		"byte order mark":  "\uFEFFname: SELECT WORD",
	} {
		var c config
		doc, err := strictyaml.Decode("f.yaml", []byte(src), &c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		line, column := doc.Position("name", strings.Index(c.Name, "WORD"))
		lines := strings.Split(strings.TrimPrefix(src, "\uFEFF"), "\n")
		if text := []rune(lines[line-1]); !strings.HasPrefix(string(text[min(column-1, len(text)):]), "WORD") {
			t.Errorf("%s: %d:%d is not where WORD stands", name, line, column)
		}
	}
}

func TestPositionFallsBack(t *testing.T) {
	src := "name: \"a\\n${NAME} WORD\"\nitems: []"
	var c config
	doc, err := strictyaml.Decode("f.yaml", []byte(src), &c, strictyaml.WithEnv(lookup))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][2]int{"name": {1, 7}, "items": {2, 8}, "items[3]": {2, 8}, "nope": {1, 1}} {
		if line, column := doc.Position(path, 9); line != want[0] || column != want[1] {
			t.Errorf("%s: %d:%d, want %v", path, line, column, want)
		}
	}
	if got := doc.Variable("name") + doc.Variable("items") + doc.Variable("name.x"); got != "NAME" {
		t.Errorf("the variables are %q", got)
	}
}
