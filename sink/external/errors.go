package external

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/mapping"
	"outflow/replication/wal"
)

// Verdict is the action that an error of an external database asks for.
type Verdict int

// The verdicts. The zero Verdict is Retry.
const (
	Retry      Verdict = iota // the server, the network or a lock: try again soon
	RetryLong                 // disk full, login refused: try again, but seldom
	RowFault                  // the data of a row
	NeedsHuman                // the mapping or a permission: nothing changes by trying
	Conflict                  // the metadata is not as this process left the row: read the metadata again
	Outdated                  // the queued changes no longer fit: copy the rows as they are now
)

// Error is a failure of one destination. An operator reads the same text; a tenant may read [Error.Class]. An Error is not changed once it was
// returned.
type Error struct {
	Mapping  string // "" where no mapping is concerned
	Table    string // the source table, "" where no table is
	Key      string // of the row that failed: column=value, ...; "" where the error is not about a single row
	SQLState string // "" where the server did not answer
	Remedy   string // "" where none is known
	Err      error

	Verdict Verdict
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

// AsError classifies err unless a callee has done so.
func AsError(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	e := &Error{Err: err, Verdict: classify(err)}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		e.SQLState = codeOf(pgErr)
	}
	return e
}

// classify is the only place that decides the meaning of an error of an external database.
func classify(err error) Verdict {
	pgErr := (*pgconn.PgError)(nil)
	if !errors.As(err, &pgErr) {
		if classOf(err) == ClassBlocked {
			return NeedsHuman
		}
		return Retry // the network, a timeout, a server that went away in the middle
	}
	switch codeOf(pgErr) {
	case pgerror.TooManyConnections, pgerror.SerializationFailure, pgerror.DeadlockDetected, pgerror.LockNotAvailable, pgerror.QueryCanceled, pgerror.ReadOnlyTransaction,
		pgerror.IdleTransactionTimeout, pgerror.DuplicatePrepared, pgerror.UnknownPrepared:
		return Retry
	case pgerror.DiskFull, pgerror.OutOfMemory, pgerror.UnknownDatabase:
		return RetryLong
	case pgerror.ActiveTransaction:
		return NeedsHuman // a statement that cannot run in a transaction never will
	}
	switch class := codeOf(pgErr)[:2]; class {
	case "08", "25", "55", "57": // also a server that became a standby or is starting
		return Retry
	case "28":
		return RetryLong // a failed login again and again may lock the account
	case "53", "58", "XX":
		return RetryLong
	case "42", "0A", "2B", "2F", "3F":
		return NeedsHuman
	}
	return RowFault // 22 data, 23 constraints, P0001 a trigger's RAISE, and all else that a statement can say of its rows
}

// SQLState is the SQLSTATE of a server's error, also where the error is wrapped; "" where no server sent the error.
func SQLState(err error) string {
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

// DescribeRow names a row for an operator: key columns only, no other value.
func DescribeRow(rel *wal.Relation, row wal.Tuple) string {
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

// OfRow is the error with the name of a row: key columns only, no other value.
func OfRow(e *Error, rel *wal.Relation, row wal.Tuple) *Error {
	named := *e
	named.Table, named.Key = rel.Table, DescribeRow(rel, row)
	if named.Remedy == "" && slices.Contains(ofOtherRows, named.SQLState) {
		named.Remedy = "correct the constraint, or the rows that violate it; outflow resync copies all rows in an order that suits the constraints"
	}
	return &named
}

// ofOtherRows are refusals that may come from other rows, and not from the row alone: another order may help.
var ofOtherRows = []string{pgerror.ForeignKeyViolation, pgerror.UniqueViolation, pgerror.ExclusionViolation}

// IsCanceled reports whether an error comes from a context that was canceled: the work was ended, and did not fail.
func IsCanceled(err error) bool { return errors.Is(err, context.Canceled) }

// NeedsPerson reports whether no further try helps before a person has done something.
func (e *Error) NeedsPerson() bool { return e.Verdict == NeedsHuman || e.Verdict == RowFault }
