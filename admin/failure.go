package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"unicode"

	"outflow/sink"
)

// maxMessage cuts what a server says; the log has the whole text.
const maxMessage = 1024

func failureOf(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Message: clean(err.Error()), Class: classOf(err)}
	e := (*sink.Error)(nil)
	if !errors.As(err, &e) {
		return f
	}
	f.SQLState, f.Mapping, f.Table = known(e.SQLState), known(e.Mapping), known(e.Table)
	f.Key, f.Remedy = known(clean(e.Key)), known(clean(e.Remedy))
	if file, line, column, ok := e.Place(); ok {
		f.File, f.Line, f.Column = known(file), known(line), known(column)
	}
	return f
}

// Short is the message without what the other fields say already.
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

func noDigit(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// clean cuts a text of somebody else and takes out what a terminal or a log would act on.
func clean(s string) string {
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return '�'
		}
		return r
	}, s)
}

// classes are all that classOf gives.
var classes = []string{"dns", "refused", "timeout", "tls", "network", "login", "database", "mapping", "permission", "row", "constraint",
	"resources", "lock", "shutdown", "other"}

// classOf gives an error's class: one of a few words, so that a metric may carry it.
func classOf(err error) string {
	if e := (*sink.Error)(nil); errors.As(err, &e) && len(e.SQLState) >= 2 {
		return classOfState(e.SQLState)
	}
	var dns *net.DNSError
	var record tls.RecordHeaderError
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var alert tls.AlertError
	var netErr net.Error
	switch {
	case errors.As(err, &dns):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &record), errors.As(err, &verification), errors.As(err, &authority), errors.As(err, &alert):
		return "tls"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return "timeout"
	case errors.As(err, &netErr), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return "network"
	}
	return "other"
}

func classOfState(state string) string {
	switch state {
	case "57014":
		return "timeout"
	case "3D000":
		return "database"
	case "42501":
		return "permission"
	case "55P03", "55006":
		return "lock"
	}
	switch state[:2] {
	case "08":
		return "network"
	case "28":
		return "login"
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
