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

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgerror"
)

// NewFault is an error that only a person can correct. class is the part that the tenant may read.
func NewFault(class string, err error, remedy string) *Error {
	return (&Error{Err: err, Remedy: remedy, Verdict: NeedsHuman, class: class}).Kept()
}

// Panicked is the fault behind a panic: an external server may send an unforeseen answer, and such an answer must not end the process.
func Panicked(cause any) *Error {
	return NewFault(ClassProtocol, fmt.Errorf("a fault of Outflow's, or an impossible answer: %v", cause), "report the stack in the log")
}

// The classes of errors that do not come from a server's SQLSTATE.
const (
	ClassDNS           = "dns"
	ClassRefused       = "refused" // also: nothing answers there
	ClassBlocked       = "blocked" // by the operator's policy
	ClassTLS           = "tls"
	ClassAuth          = "auth"
	ClassTimeout       = "timeout"
	ClassProtocol      = "protocol"      // the peer is not Postgres, or went away in the middle
	ClassConfiguration = "configuration" // the destination or its mappings, as written
	ClassConflict      = "conflict"      // another process writes to the same database
)

// Class is the part of the error that a tenant may read: a class, or a SQLSTATE. The text is for the operator alone: the text holds
// internal addresses, and bytes of any answering peer.
func (e *Error) Class() string {
	switch {
	case e.class != "":
		return e.class
	case strings.HasPrefix(e.SQLState, "28"):
		return ClassAuth
	case IsSQLState(e.SQLState):
		return e.SQLState
	}
	if class := classOf(e.Err); class != "" {
		return class
	}
	switch e.Verdict {
	case NeedsHuman:
		return ClassConfiguration
	case Conflict:
		return ClassConflict
	}
	return ClassProtocol
}

// IsSQLState reports whether a code is a SQLSTATE: a hostile server may send any text in its place.
func IsSQLState(code string) bool {
	if len(code) != 5 {
		return false
	}
	for _, c := range code {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// classOf finds the class of an error of the network; "" is none.
func classOf(err error) string {
	var classed interface{ Class() string }
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &classed):
		return classed.Class()
	case errors.As(err, &dns):
		return ClassDNS
	case pgerror.IsTLS(err):
		return ClassTLS
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), pgconn.Timeout(err),
		errors.As(err, &timeout) && timeout.Timeout():
		return ClassTimeout
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return ClassRefused
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return ClassProtocol
	case err != nil && strings.Contains(err.Error(), "SASL"): // pgx has no type for faults of the exchange
		return ClassAuth
	}
	return ""
}
