package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"outflow/internal/fit"
)

// Error is a fault in a document. Line and Column count from 1; Column counts
// characters, not bytes.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

// Error gives "file:line:column: message".
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors are all faults of a document, sorted by position.
type Errors []*Error

// Error gives a fault per line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, fault := range e {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a single *Error.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, fault := range e {
		errs[i] = fault
	}
	return errs
}

// Sort orders the faults by file, line and column and keeps the order of faults
// at the same place.
func (e Errors) Sort() {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// quoteLimit is the number of bytes of a document's text repeated in a message.
const quoteLimit fit.Place = 60

// quote shows text of the document in a message, cut to quoteLimit.
func quote(text string) string {
	return fmt.Sprintf("%q", fit.Cut(text, quoteLimit))
}

// Nearest gives the allowed name of which name is most probably a misspelling,
// or "".
func Nearest(name string, allowed []string) string {
	if len(name) > int(quoteLimit) {
		return ""
	}
	best, bestDistance := "", 1+min(2, (len(name)+2)/3)
	for _, candidate := range allowed {
		d := distance(strings.ToLower(name), strings.ToLower(candidate))
		if d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
