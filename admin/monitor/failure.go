package monitor

import (
	"errors"
	"strings"

	"outflow/internal/fit"
	"outflow/sink/external"
)

// failureOf describes an error for the API: class, place, row and remedy, each on its own, with texts made fit. nil for no error.
func failureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Message: Clean(err.Error()), Class: ClassOf(err)}
	e := (*external.Error)(nil)
	if !errors.As(err, &e) {
		return f
	}
	f.SQLState, f.Mapping, f.Table = known(e.SQLState), known(e.Mapping), known(e.Table)
	f.Key, f.Remedy = known(Clean(e.Key)), known(Clean(e.Remedy))
	if file, line, column, ok := e.Place(); ok {
		f.File, f.Line, f.Column = known(file), known(line), known(column)
	}
	return f
}

// Short is the message without the parts repeated in other fields.
func (f Failure) Short() string {
	text := f.Message
	for _, known := range []*string{f.Mapping, f.Key, f.File} {
		if known == nil {
			continue
		}
		// "mapping m: ", "row of T with key: ", "file:line:column: ", in this order
		if at := strings.Index(text, *known); at >= 0 {
			if _, rest, ok := strings.Cut(text[at+len(*known):], ": "); ok {
				text = rest
			}
		}
	}
	if f.Remedy != nil {
		text = strings.TrimSuffix(text, "; remedy: "+*f.Remedy)
	}
	if f.SQLState != nil {
		text = strings.TrimSuffix(text, " (SQLSTATE "+*f.SQLState+")")
	}
	return text
}

// sameAs reports whether two failures are the same but for numbers, such as the port of a connection.
func (f Failure) sameAs(o Failure) bool {
	words := func(s string) string { return strings.Map(noDigit, s) }
	return f.Class == o.Class && words(f.Message) == words(o.Message)
}

// noDigit maps digits away, for comparing messages that differ only in numbers.
func noDigit(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// Clean makes a foreign text fit for a page and for an answer of the API; the log may have more of the text.
func Clean(s string) string { return fit.Text(s, fit.Page) }

// Classes are all results of ClassOf.
var Classes = []string{external.ClassDNS, external.ClassRefused, external.ClassBlocked, external.ClassTLS, external.ClassAuth, external.ClassTimeout, external.ClassProtocol,
	external.ClassConfiguration, external.ClassConflict, "database", "mapping", "permission", "row", "constraint", "resources", "lock", "shutdown", "other"}

// ClassOf gives an error's class: one of a few words, so that a metric may carry the class. The class is [external.Error.Class],
// with a word for a SQLSTATE.
func ClassOf(err error) string {
	e := (*external.Error)(nil)
	if !errors.As(err, &e) {
		return "other"
	}
	if class := e.Class(); class != e.SQLState {
		return class
	}
	return classOfState(e.SQLState)
}

// classOfState is the class of a SQLSTATE, mostly by its first two characters (the Postgres manual, appendix A).
func classOfState(state string) string {
	switch state {
	case "57014":
		return external.ClassTimeout
	case "3D000":
		return "database"
	case "42501":
		return "permission"
	case "55P03", "55006":
		return "lock"
	}
	switch state[:2] {
	case "08":
		return external.ClassProtocol
	case "42", "0A", "2B", "2F", "3F":
		return "mapping"
	case "22", "P0":
		return "row"
	case "23":
		return "constraint"
	case "53", "58", "XX":
		return "resources"
	case "40":
		return "lock"
	case "57", "25":
		return "shutdown"
	}
	return "other"
}
