package external

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/mapping"
)

// classed is an error that knows its own class, as the errors of tenantdsn do.
type classed string

func (c classed) Error() string { return "classed" }
func (c classed) Class() string { return string(c) }

// What an error means is decided by the SQLSTATE of the server, and by the kind of failure where no server answered.
func TestVerdictsAndClasses(t *testing.T) {
	t.Parallel()
	server := func(code string) error {
		return fmt.Errorf("step: %w", &pgconn.PgError{Severity: "ERROR", Code: code, Message: "message"})
	}
	for _, test := range []struct {
		name    string
		err     error
		verdict Verdict
		class   string
	}{
		{"serialization failure", server("40001"), Retry, "40001"},
		{"deadlock", server("40P01"), Retry, "40P01"},
		{"lock timeout", server("55P03"), Retry, "55P03"},
		{"statement timeout", server("57014"), Retry, "57014"},
		{"shutdown", server("57P01"), Retry, "57P01"},
		{"starting", server("57P03"), Retry, "57P03"},
		{"too many connections", server("53300"), Retry, "53300"},
		{"a standby", server("25006"), Retry, "25006"},
		{"idle in transaction", server("25P03"), Retry, "25P03"},
		{"another client's statement", server("42P05"), Retry, "42P05"},
		{"a pooler's other session", server("26000"), Retry, "26000"},
		{"the connection", server("08006"), Retry, "08006"},
		{"disk full", server("53100"), RetryLong, "53100"},
		{"out of memory", server("53200"), RetryLong, "53200"},
		{"I/O", server("58030"), RetryLong, "58030"},
		{"a fault of the server", server("XX000"), RetryLong, "XX000"},
		{"no database", server("3D000"), RetryLong, "3D000"},
		{"wrong password", server("28P01"), RetryLong, ClassAuth},
		{"no such role", server("28000"), RetryLong, ClassAuth},
		{"no table", server("42P01"), NeedsHuman, "42P01"},
		{"no column", server("42703"), NeedsHuman, "42703"},
		{"no right", server("42501"), NeedsHuman, "42501"},
		{"VACUUM in a transaction", server("25001"), NeedsHuman, "25001"},
		{"not supported", server("0A000"), NeedsHuman, "0A000"},
		{"no schema", server("3F000"), NeedsHuman, "3F000"},
		{"unique", server("23505"), RowFault, "23505"},
		{"foreign key", server("23503"), RowFault, "23503"},
		{"out of range", server("22003"), RowFault, "22003"},
		{"a trigger's RAISE", server("P0001"), RowFault, "P0001"},
		{"a code that is none", server("oops!"), RetryLong, "XX000"},
		{"a code of bytes", server("\x00\xff"), RetryLong, "XX000"},
		{"no code", server(""), RetryLong, "XX000"},

		{"DNS", fmt.Errorf("connecting: %w", &net.DNSError{Err: "no such host", Name: "h"}), Retry, ClassDNS},
		{"refused", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, Retry, ClassRefused},
		{"no route", os.NewSyscallError("connect", syscall.EHOSTUNREACH), Retry, ClassRefused},
		{"reset", os.NewSyscallError("read", syscall.ECONNRESET), Retry, ClassProtocol},
		{"the peer went away", io.ErrUnexpectedEOF, Retry, ClassProtocol},
		{"time", fmt.Errorf("asking: %w", context.DeadlineExceeded), Retry, ClassTimeout},
		{"time on the socket", os.ErrDeadlineExceeded, Retry, ClassTimeout},
		{"SASL", errors.New("invalid SASL message"), Retry, ClassAuth},
		{"TLS", errors.New("server refused TLS connection"), Retry, ClassTLS},
		{"blocked", classed(ClassBlocked), NeedsHuman, ClassBlocked},
		{"a wrong answer", &wrongAnswer{"h:1", "2 rows"}, Retry, ClassProtocol},
		{"another error", errors.New("else"), Retry, ClassProtocol},

		{"a class that is given", NewFault(ClassDNS, errors.New("x"), ""), NeedsHuman, ClassDNS},
		{"a person", &Error{Verdict: NeedsHuman, Err: errors.New("x")}, NeedsHuman, ClassConfiguration},
		{"a conflict", &Error{Verdict: Conflict, Err: errors.New("x")}, Conflict, ClassConflict},
		{"a panic", Panicked("cause"), NeedsHuman, ClassProtocol},
	} {
		e := AsError(test.err)
		if e.Verdict != test.verdict || e.Class() != test.class {
			t.Errorf("%s: verdict %d and class %s, expected %d and %s", test.name, e.Verdict, e.Class(), test.verdict, test.class)
		}
		if kept := e.Kept(); kept.Verdict != e.Verdict || kept.Class() != e.Class() || kept.SQLState != e.SQLState {
			t.Errorf("%s: it is kept as %+v", test.name, kept)
		}
	}
}

// A class is decided once: behind more context the error is the same.
func TestAsErrorKeepsTheFirstWord(t *testing.T) {
	t.Parallel()
	first := &Error{Mapping: "m", Verdict: Conflict, Err: errors.New("x")}
	if e := AsError(fmt.Errorf("repairing: %w", first)); e != first {
		t.Errorf("it became %+v", e)
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*Error{
		"x":                                {Err: errors.New("x")},
		"mapping m: x":                     {Mapping: "m", Err: errors.New("x")},
		"mapping m: x; remedy: r":          {Mapping: "m", Err: errors.New("x"), Remedy: "r"},
		"row of t with a=1: x":             {Table: "t", Key: "a=1", Err: errors.New("x")},
		"mapping m: row of t with a=1: x":  {Mapping: "m", Table: "t", Key: "a=1", Err: errors.New("x")},
		"x?":                               {Err: errors.New("x\xff")},
		"mapping m: m.yaml:3:5: no column": {Mapping: "m", Err: &mapping.Fault{File: "m.yaml", Line: 3, Column: 5, Message: "no column"}},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
	long := &Error{Err: errors.New(strings.Repeat("x", 1<<20))}
	if n := len(long.Error()); n > keptBytes {
		t.Errorf("%d bytes", n)
	}
	if _, _, _, ok := long.Place(); ok {
		t.Error("a place without a fault of a mapping")
	}
}

func TestDescribeRow(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]mapping.Row{
		"tenant=t1, id=5":    row("t1", 5, "secret"),
		"tenant=t1, id=NULL": row("t1", nil, "secret"),
	} {
		if got := DescribeRow(item, r.Tuple); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
	if n := len(DescribeRow(item, row(strings.Repeat("x", 1<<20), strings.Repeat("\xff", 1<<20), "").Tuple)); n > keptBytes {
		t.Errorf("%d bytes", n)
	}
}

func TestTimedOut(t *testing.T) {
	t.Parallel()
	canceled := &pgconn.PgError{Code: "57014"}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{canceled, true}, {fmt.Errorf("x: %w", canceled), true}, {&Error{SQLState: "57014", Err: errTest}, true},
		{context.DeadlineExceeded, true}, {fmt.Errorf("x: %w", context.DeadlineExceeded), true},
		{nil, false}, {errTest, false}, {context.Canceled, false}, {&pgconn.PgError{Code: "23505"}, false}, {&Error{SQLState: "23505", Err: canceled}, false},
	} {
		if TimedOut(test.err) != test.want {
			t.Errorf("%v: %v", test.err, !test.want)
		}
	}
	if !IsCanceled(fmt.Errorf("x: %w", context.Canceled)) || IsCanceled(context.DeadlineExceeded) {
		t.Error("what was canceled is told wrong")
	}
}

func TestIsSQLState(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"23505": true, "P0001": true, "XX000": true, "": false, "2350": false, "235055": false, "2350x": false, "23 05": false, "２3505": false} {
		if IsSQLState(code) != want {
			t.Errorf("%q: %v", code, !want)
		}
	}
}
