package strictyaml

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
)

// Document finds the positions of a decoded document's values again. A path
// names a value as in "destinations.static[0].dsn"; "" is the whole document. A
// Document is not changed after Decode and safe for concurrent use.
type Document struct {
	file  string
	lines []string
	root  *yaml.Node // nil: the document is empty or not valid YAML
	// expanded has the scalars with an environment variable inside.
	expanded map[*yaml.Node]string
}

// Errorf is a fault at the value with the path, or where the document has no
// such value, at the nearest existing parent.
func (d *Document) Errorf(path, format string, args ...any) *Error {
	line, column := d.At(path)
	return &Error{d.file, line, column, fmt.Sprintf(format, args...)}
}

// At is the line and column, from 1, of the value with the path, or of the
// nearest existing parent.
func (d *Document) At(path string) (line, column int) {
	n, _ := d.find(path)
	return d.nodeAt(n)
}

// Has tells whether the document itself names the value with the path.
func (d *Document) Has(path string) bool {
	_, rest := d.find(path)
	return rest == "" && d.root != nil
}

// Variable names the environment variable expanded in the value with the path,
// the first variable of several, or is "". A message must not repeat such a
// value.
func (d *Document) Variable(path string) string {
	n, rest := d.find(path)
	if rest != "" {
		return ""
	}
	return d.expanded[n]
}

func (d *Document) nodeAt(n *yaml.Node) (line, column int) {
	if n == nil {
		return 1, 1
	}
	return d.clamp(n.Line, n.Column)
}

// find walks down path and gives the last node there and the part of path
// leading nowhere. find walks because an index of all paths would be quadratic
// in the document's size.
func (d *Document) find(path string) (n *yaml.Node, rest string) {
	n, rest = d.root, path
	for n != nil && rest != "" {
		child, remaining := step(n, rest)
		if child == nil {
			return n, rest
		}
		n, rest = child, strings.TrimPrefix(remaining, ".")
	}
	return n, rest
}

// step goes to the child of n at the beginning of path. A key may hold dots:
// the longest fitting key is taken.
func step(n *yaml.Node, path string) (child *yaml.Node, rest string) {
	switch n.Kind {
	case yaml.SequenceNode:
		number, after, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
		i, err := strconv.Atoi(number)
		if ok && err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], after
		}
	case yaml.MappingNode:
		longest := -1
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			after, ok := strings.CutPrefix(path, key)
			if ok && len(key) > longest && (after == "" || after[0] == '.' || after[0] == '[') {
				child, rest, longest = n.Content[i+1], after, len(key)
			}
		}
	}
	return child, rest
}

// Position maps a byte offset in the decoded string at path to the line and
// column in the file. Position is exact for block scalars (|), and for plain
// and quoted text without escapes; inside other quoted text, and where a
// ${NAME} was expanded before the offset, Position is the start of the scalar.
func (d *Document) Position(path string, offset int) (line, column int) {
	n, rest := d.find(path)
	if n == nil || rest != "" || n.Kind != yaml.ScalarNode {
		return d.nodeAt(n)
	}
	offset = max(0, min(offset, len(n.Value)))
	switch {
	case n.Style&yaml.LiteralStyle != 0:
		line, column = d.inLiteral(n, offset)
	case n.Style&yaml.FoldedStyle != 0:
		line, column = d.inFolded(n.Value[:offset], n.Line, 0)
	case n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		line, column = d.inQuoted(n, offset)
	default:
		line, column = d.inFolded(n.Value[:offset], n.Line-1, n.Column-1)
	}
	return d.clamp(line, column)
}

// inLiteral relies on a literal block's lines being lines of the file, less the
// indentation.
func (d *Document) inLiteral(n *yaml.Node, offset int) (line, column int) {
	before := n.Value[:offset]
	line = n.Line + 1 + strings.Count(before, "\n")
	start := strings.LastIndexByte(before, '\n') + 1
	text, _, _ := strings.Cut(n.Value[start:], "\n")
	indent := 0
	if line <= len(d.lines) {
		indent = max(0, utf8.RuneCountInString(d.lines[line-1])-utf8.RuneCountInString(text))
	}
	return line, indent + utf8.RuneCountInString(before[start:]) + 1
}

// inFolded relies on folding to change nothing but white space: inFolded counts
// the other characters, from the given line and column (from 0).
func (d *Document) inFolded(before string, line, column int) (int, int) {
	wanted := 0
	for _, r := range before {
		if !unicode.IsSpace(r) {
			wanted++
		}
	}
	// An offset after a space belongs to the next word, not to the end of the word before.
	last, _ := utf8.DecodeLastRuneInString(before)
	next := before == "" || unicode.IsSpace(last)
	for ; line < len(d.lines); line++ {
		for i, r := range []rune(d.lines[line]) {
			if i < column || unicode.IsSpace(r) {
				continue
			}
			if wanted == 0 && next {
				return line + 1, i + 1
			}
			if wanted--; wanted == 0 && !next {
				return line + 1, i + 2
			}
		}
		column = 0
	}
	return len(d.lines), len(d.lines[len(d.lines)-1]) + 1
}

// inQuoted is exact where the file shows the text unescaped.
func (d *Document) inQuoted(n *yaml.Node, offset int) (line, column int) {
	line, column = d.nodeAt(n)
	raw := []rune(d.lines[line-1])
	if column <= len(raw) && strings.HasPrefix(string(raw[column:]), n.Value) {
		return line, column + 1 + utf8.RuneCountInString(n.Value[:offset])
	}
	return line, column
}

// clamp keeps a position inside the document; the place after the last
// character of a line still is.
func (d *Document) clamp(line, column int) (int, int) {
	line = max(1, min(line, len(d.lines)))
	return line, max(1, min(column, utf8.RuneCountInString(d.lines[line-1])+1))
}

// splitLines splits where YAML does: CR LF, LF, CR and the Unicode breaks.
// There is always a line. A byte order mark has no column, and text past
// MaxBytes no position.
func splitLines(src []byte) []string {
	text := string(bytes.TrimPrefix(src[:min(len(src), MaxBytes)], []byte("\uFEFF")))
	text = lineBreaks.Replace(text)
	return strings.Split(text, "\n")
}

var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n")
