package sink

import (
	"errors"

	"outflow/mapping"
)

// Place is where in a mapping's file the fault stands; ok is false where that is not known.
func (e *Error) Place() (file string, line, column int, ok bool) {
	fault := (*mapping.Fault)(nil)
	if !errors.As(e.Err, &fault) || fault.Line == 0 {
		return "", 0, 0, false
	}
	return fault.File, fault.Line, fault.Column, true
}
