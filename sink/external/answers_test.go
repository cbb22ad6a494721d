package external

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/mapping"
)

// An error is kept with its class and its place, and not with the megabytes that a server may say.
func TestKeptErrors(t *testing.T) {
	long := &pgconn.PgError{Code: "P0001", Message: strings.Repeat("x", 3<<20)}
	e := AsError(fmt.Errorf("applying: %w", long))
	kept := e.Kept()
	if n := len(kept.Err.Error()); n > keptBytes {
		t.Errorf("%d bytes are kept", n)
	}
	if kept.Error() != e.Error() || kept.Class() != e.Class() || kept.SQLState != e.SQLState || kept.Verdict != e.Verdict {
		t.Errorf("kept is %.100v of class %s; expected %.100v of class %s", kept, kept.Class(), e, e.Class())
	}
	placed := &Error{Err: &mapping.Fault{File: "f.yaml", Line: 3, Column: 4, Message: strings.Repeat("y", 1<<20)}}
	if file, line, column, ok := placed.Kept().Place(); file != "f.yaml" || line != 3 || column != 4 || !ok {
		t.Errorf("the place is %s:%d:%d", file, line, column)
	}
	refused := &pgconn.PgError{Severity: "FATAL", Code: "28P01", Message: "no", Detail: strings.Repeat("d", 1<<18), Where: strings.Repeat("w", 1<<18)}
	if AsError(explainConnect(fmt.Errorf("dial: %w", refused))).Kept(); len(refused.Detail)+len(refused.Where) > keptBytes {
		t.Errorf("of a refused login %d bytes are kept", len(refused.Detail)+len(refused.Where))
	}
	short := AsError(fmt.Errorf("applying: %w", &pgconn.PgError{Code: "P0001", Message: "x"}))
	if short.Kept() != short {
		t.Error("a short error is kept as another one")
	}
}
