package command

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"outflow/internal/fit"
)

// screen is the writer of all output of the commands. Names, values and errors come from tenants, from tenants' servers and from
// any peer at admin.listen: screen shows the control characters, and a terminal obeys none. Each Write holds whole characters.
type screen struct{ w io.Writer }

// Write reports the length of p, whatever the length of the text printed for p.
func (s *screen) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.w, legible(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// terminal is the terminal behind a command's writer, for the command's own control sequences; nil where there is none.
func terminal(out io.Writer) *os.File {
	if s, ok := out.(*screen); ok {
		out = s.w
	}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// legible writes each character that a terminal obeys as \uXXXX: a form for people, with the same meaning within JSON. Line
// ends and tabs stay.
func legible(text string) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if strings.IndexFunc(text, obeyed) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if obeyed(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// obeyed reports whether a terminal may obey the character instead of showing the character.
func obeyed(r rune) bool { return r != '\n' && r != '\t' && fit.IsControl(r) }

// line is a text from outside that takes a single line, or a single cell of a table.
func line(text string) string {
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(text)
}
