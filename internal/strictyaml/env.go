package strictyaml

import (
	"fmt"
	"regexp"
	"strings"

	"outflow/internal/fit"
)

// Option changes how Decode reads a document.
type Option func(*decoder)

// WithEnv replaces ${NAME} inside the values of a document by the answer of
// lookup for NAME ([A-Za-z_][A-Za-z0-9_]*); a name unknown to lookup is a
// fault. Keys are left alone. Every "${" must begin such a name: there are no
// defaults and there is no escape, but a "$" without a brace stands for itself.
// The inserted value is text: not read as YAML and not expanded again, and no
// message repeats the value.
func WithEnv(lookup func(name string) (string, bool)) Option {
	return func(d *decoder) { d.lookup = lookup }
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// MaxBytes bounds a document; an expanded value is held to the limit as well,
// so repeating a variable cannot blow up.
const MaxBytes = 1 << 20

// expand gives the value of a scalar and the first variable inside ("": the
// scalar has no variable and may be shown).
func (d *decoder) expand(text string) (value, name string, err error) {
	if d.lookup == nil || !strings.Contains(text, "${") {
		return text, "", nil
	}
	var out strings.Builder
	rest := 0
	for rest < len(text) {
		next := strings.Index(text[rest:], "${")
		if next < 0 {
			break
		}
		out.WriteString(text[rest : rest+next])
		rest += next
		at := variable.FindStringSubmatchIndex(text[rest:])
		if at == nil || at[0] != 0 {
			return "", "", fmt.Errorf("after ${ expected the name of an environment variable and }; only the form ${NAME} is allowed")
		}
		key := text[rest+at[2] : rest+at[3]]
		value, ok := d.lookup(key)
		if !ok {
			return "", "", fmt.Errorf("environment variable %s is not set", quoteName(key))
		}
		if d.expanded += len(value); d.expanded > MaxBytes {
			return "", "", fmt.Errorf("the environment variables in this document expand to more than %s", ByteSize(MaxBytes))
		}
		out.WriteString(value)
		if name == "" {
			name = key
		}
		rest += at[1]
	}
	out.WriteString(text[rest:])
	return out.String(), name, nil
}

// quoteName cuts a variable's name, which a document may make of any length.
func quoteName(name string) string { return fit.Cut(name, quoteLimit) }
