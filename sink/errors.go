package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"outflow/internal/fit"
	"outflow/mapping"
	"outflow/replication/wal"

	"github.com/jackc/pgx/v5/pgconn"
)

// verdict is the action that an error of an external database asks for.
type verdict int

const (
	retry      verdict = iota // the server, the network or a lock: try again soon
	retryLong                 // disk full, login refused: try again, but seldom
	rowFault                  // the data of a row
	needsHuman                // the mapping or a permission: nothing changes by trying
	conflict                  // the metadata is not as this process left the row: read the metadata again
	outdated                  // the queued changes no longer fit: copy the rows as they are now
)

// SQLSTATEs with a handling of their own (the Postgres manual, appendix A).
const (
	divisionByZero         = "22012"
	undefinedTable         = "42P01"
	undefinedColumn        = "42703"
	foreignKeyViolation    = "23503"
	uniqueViolation        = "23505"
	exclusionViolation     = "23P01"
	insufficientPrivilege  = "42501"
	duplicatePrepared      = "42P05"
	unknownPrepared        = "26000"
	queryCanceled          = "57014"
	deadlockDetected       = "40P01"
	serializationFailure   = "40001"
	lockNotAvailable       = "55P03"
	tooManyConnections     = "53300"
	readOnlyTransaction    = "25006"
	diskFull               = "53100"
	outOfMemory            = "53200"
	idleTransactionTimeout = "25P03"
	databaseMissing        = "3D000"
	activeTransaction      = "25001"
	generatedAlways        = "428C9"
)

// Error is a failure of one destination. An operator reads the same text.
type Error struct {
	Mapping  string // "" where no mapping is concerned
	Table    string // the source table, "" where no table is
	Key      string // of the row that failed: column=value, ...; "" where the error is not about a single row
	SQLState string // "" where the server did not answer
	Remedy   string // "" where none is known
	Err      error

	verdict verdict
	class   string // "": see Class
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Mapping != "" {
		fmt.Fprintf(&b, "mapping %s: ", e.Mapping)
	}
	if e.Key != "" {
		fmt.Fprintf(&b, "row of %s with %s: ", e.Table, e.Key)
	}
	b.WriteString(fit.Text(e.Err.Error(), fit.Reason))
	if e.Remedy != "" {
		b.WriteString("; remedy: " + e.Remedy)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Place is the place of the fault in a mapping's file; ok is false where the place is not known.
func (e *Error) Place() (file string, line, column int, ok bool) {
	fault := (*mapping.Fault)(nil)
	if !errors.As(e.Err, &fault) || fault.Line == 0 {
		return "", 0, 0, false
	}
	return fault.File, fault.Line, fault.Column, true
}

// newError classifies err unless a callee has done so.
func newError(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	e := &Error{Err: err, verdict: classify(err)}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		e.SQLState = codeOf(pgErr)
	}
	return e
}

// classify is the only place that decides the meaning of an error of an external database.
func classify(err error) verdict {
	pgErr := (*pgconn.PgError)(nil)
	if !errors.As(err, &pgErr) {
		if classOf(err) == ClassBlocked {
			return needsHuman
		}
		return retry // the network, a timeout, a server that went away in the middle
	}
	switch codeOf(pgErr) {
	case tooManyConnections, serializationFailure, deadlockDetected, lockNotAvailable, queryCanceled, readOnlyTransaction,
		idleTransactionTimeout, duplicatePrepared, unknownPrepared:
		return retry
	case diskFull, outOfMemory, databaseMissing:
		return retryLong
	case activeTransaction:
		return needsHuman // a statement that cannot run in a transaction never will
	}
	switch class := codeOf(pgErr)[:2]; class {
	case "08", "25", "55", "57": // also a target that became a standby or is starting
		return retry
	case "28":
		return retryLong // a failed login again and again may lock the account
	case "53", "58", "XX":
		return retryLong
	case "42", "0A", "2B", "2F", "3F":
		return needsHuman
	}
	return rowFault // 22 data, 23 constraints, P0001 a trigger's RAISE, and all else that a statement can say of its rows
}

func sqlstate(err error) string {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return codeOf(pgErr)
	}
	return ""
}

// codeOf is the SQLSTATE of a server's error. A malformed code, which only a hostile server sends, counts as an internal error.
func codeOf(e *pgconn.PgError) string {
	if IsSQLState(e.Code) {
		return e.Code
	}
	return "XX000"
}

// describeTuple names a row for an operator: key columns only, no other value.
func describeTuple(rel *wal.Relation, row wal.Tuple) string {
	s := ""
	for _, i := range rel.Key {
		v := row.Value(i)
		text := "NULL"
		if v.Presence == wal.Text {
			text = fit.Text(string(v.Text[:min(len(v.Text), 2*int(fit.Value))]), fit.Value)
		}
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%s=%s", rel.Columns[i].Name, text)
	}
	return fit.Cut(s, fit.Reason)
}

func isCanceled(err error) bool { return errors.Is(err, context.Canceled) }
