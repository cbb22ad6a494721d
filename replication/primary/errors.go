package primary

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgerror"
)

// A Problem is something for a person to change on the primary. A Problem names the thing and the remedy.
type Problem struct {
	What   string // the fault, with the name of the thing
	Remedy string // the remedy, as a statement to run where a statement helps
	Err    error  // the server's error, nil where Outflow found the fault by itself
	Relied bool   // a condition of Outflow does not hold: once the condition holds, every destination is copied again
}

func (p *Problem) Error() string {
	s := p.What
	if p.Err != nil {
		s += ": " + p.Err.Error()
	}
	return s + "\n  remedy: " + p.Remedy
}

func (p *Problem) Unwrap() error { return p.Err }

// A Gap ends the reading where the stream does not show every change on the primary, and nothing keeps the stream from showing every change
// from now on: every destination is copied again, and reading goes on.
type Gap struct {
	Reason string
	Unseen bool // only the stream tells; the primary's catalog does not
}

func (g *Gap) Error() string { return "changes are missing in the stream: " + g.Reason }

// Relied reports whether an error tells of a broken condition of Outflow: see [Problem.Relied].
func Relied(err error) bool {
	for _, one := range Flatten(err) {
		if problem := (*Problem)(nil); errors.As(one, &problem) && problem.Relied {
			return true
		}
	}
	return false
}

// ErrFenced tells of a process that would have written notes to the primary after another process had begun to read the slot: a frozen
// process that was thawed, say. Nothing was written. The process starts over as a standby.
var ErrFenced = errors.New("another process has begun to read the slot")

// Flatten gives the errors joined by errors.Join, however deep.
func Flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, Flatten(one)...)
	}
	return all
}

// isStandby refuses a server in recovery: such a server has neither the slot nor a place for notes.
func isStandby(conn *pgx.Conn) *Problem {
	c := conn.Config()
	return &Problem{What: fmt.Sprintf("the server at %s:%d is a standby (in recovery), so Outflow cannot write its notes there", c.Host, c.Port),
		Remedy: "use the primary in source.dsn (with several hosts: target_session_attrs=read-write)"}
}

// isReadOnly refuses a primary whose transactions may not write: positions could not be noted.
func isReadOnly(user string) *Problem {
	return &Problem{What: "the primary is read-only for this role: default_transaction_read_only is on, so Outflow cannot write its notes",
		Remedy: fmt.Sprintf("ALTER ROLE %s SET default_transaction_read_only = off; if the provider set it (full disk, maintenance), end the cause first",
			quoteIdentifier(user))}
}

// ExplainConnect adds the remedy to an error of connecting to the primary.
func ExplainConnect(s *Server, err error) error {
	tls := pgerror.TLSRemedy(err, "sslrootcert in source.dsn")
	switch state := pgerror.SQLState(err); {
	case state == pgerror.InvalidAuth && strings.Contains(err.Error(), "pg_hba.conf"):
		return &Problem{What: fmt.Sprintf("the primary's pg_hba.conf does not let %q in at %s", s.User(), s.Address()),
			Remedy: fmt.Sprintf("add a line such as: hostssl %s %s <this host>/32 scram-sha-256, and reload; a hostssl line counts only with TLS (sslmode in source.dsn)",
				s.config.Database, s.User()), Err: err}
	case tls != "":
		return &Problem{What: fmt.Sprintf("no safe connection to the primary at %s", s.Address()), Remedy: tls, Err: err}
	case state == pgerror.InvalidAuth || state == pgerror.InvalidPassword:
		return &Problem{What: fmt.Sprintf("the primary refuses the login of %q at %s", s.User(), s.Address()),
			Remedy: "check user and password in source.dsn", Err: err}
	case state == pgerror.InsufficientRights:
		return &Problem{What: fmt.Sprintf("role %q may not replicate", s.User()),
			Remedy: replicateRemedy(s.User()), Err: err}
	case state == pgerror.UnknownDatabase:
		return &Problem{What: fmt.Sprintf("the primary has no database for %s", s.Address()),
			Remedy: "check the database name in source.dsn", Err: err}
	}
	return fmt.Errorf("connecting to the primary at %s: %w", s.Address(), err)
}

// Explain adds a remedy to an error of missing rights on the primary; other errors stay unchanged.
func Explain(err error, remedy string) error {
	if pgerror.SQLState(err) == pgerror.InsufficientRights {
		return &Problem{What: "the role lacks a right on the primary", Remedy: remedy, Err: err}
	}
	return err
}

func quoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// QuoteLiteral writes s as a constant of SQL, for sessions with the settings of [Server]: there a backslash has no meaning.
func QuoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
