package strictyaml_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"outflow/internal/strictyaml"
)

// FuzzDecode: no panic; every fault has a position inside the document, and
// what is found again too.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "name: a", "items: [{name: a, ports: [1]}]", "name: |\n  a\n  b", "name: >-\n a\n b", "a: &x [*x]", "name: ${NAME}",
		"texts: {a: ${ODD}}", "%YAML 1.2\n---\nname: a\n...\n", "? a\n: b", "name: \"\\u00e9\"", "\ufeffon: true", "a\r\nb", "- - - a",
	} {
		f.Add(seed, 3)
	}
	f.Fuzz(func(t *testing.T, src string, offset int) {
		var c config
		doc, err := strictyaml.Decode("f.yaml", []byte(src), &c, strictyaml.WithEnv(lookup))
		normal := strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(src)
		lines := strings.Split(normal, "\n")
		inside := func(line, column int) {
			if line < 1 || line > len(lines) || column < 1 || column > utf8.RuneCountInString(lines[line-1])+1 {
				t.Errorf("position %d:%d is outside of %q", line, column, src)
			}
		}
		var faults strictyaml.Errors
		if err != nil && !errors.As(err, &faults) {
			t.Fatalf("%T", err)
		}
		for _, fault := range faults {
			inside(fault.Line, fault.Column)
			if strings.Contains(fault.Message, "s3cret!") && !strings.Contains(src, "s3cret!") {
				t.Errorf("%v shows an environment variable", fault)
			}
			if len(fault.Message) > 1000 {
				t.Errorf("%d bytes in a message", len(fault.Message))
			}
		}
		for _, path := range []string{"", "name", "items[0].name", "texts.a"} {
			inside(doc.At(path))
			inside(doc.Position(path, offset))
		}
	})
}
