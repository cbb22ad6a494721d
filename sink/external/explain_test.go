package external

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// remedied is an error that knows its own remedy, as the errors of tenantdsn do.
type remedied struct{ classed }

func (remedied) Remedy() string { return "its own remedy" }

// A connection that fails says what helps, as far as the cause is known.
func TestExplainConnect(t *testing.T) {
	t.Parallel()
	for remedy, err := range map[string]error{
		"check user and password":        &pgconn.PgError{Code: "28P01", Message: "password authentication failed"},
		"pg_hba.conf":                    &pgconn.PgError{Code: "28000", Message: "no pg_hba.conf entry"},
		"create the database":            &pgconn.PgError{Code: "3D000", Message: `database "d" does not exist`},
		"ssl = on":                       errors.New("server refused TLS connection"),
		"in the column ca":               x509.UnknownAuthorityError{},
		"a name in the server's cert":    x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"},
		"its own remedy":                 remedied{ClassBlocked},
		"":                               errors.New("else"),
		"renew the server's certificate": x509.CertificateInvalidError{Reason: x509.Expired},
	} {
		e := AsError(explainConnect(fmt.Errorf("dial: %w", err)))
		if !strings.Contains(e.Remedy, remedy) || (remedy == "") != (e.Remedy == "") {
			t.Errorf("%v: the remedy is %q, expected %q", err, e.Remedy, remedy)
		}
		if !strings.HasPrefix(e.Err.Error(), "connecting: dial: ") {
			t.Errorf("%v", e)
		}
	}
}

// A failed CREATE is no row's fault; two sessions that make the same table are in each other's way for a moment only.
func TestExplainDDL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err     *pgconn.PgError
		verdict Verdict
		remedy  string
	}{
		{&pgconn.PgError{Code: "42501"}, NeedsHuman, `GRANT USAGE, CREATE ON SCHEMA public TO "role"`},
		{&pgconn.PgError{Code: "23505", ConstraintName: "pg_type_typname_nsp_index"}, Retry, ""},
		{&pgconn.PgError{Code: "23505", ConstraintName: "items_pkey"}, NeedsHuman, ""},
		{&pgconn.PgError{Code: "22012"}, NeedsHuman, ""},
		{&pgconn.PgError{Code: "40P01"}, Retry, ""},
		{&pgconn.PgError{Code: "53100"}, RetryLong, ""},
	} {
		e := AsError(explainDDL(fmt.Errorf("creating: %w", test.err), "role"))
		if e.Verdict != test.verdict || !strings.Contains(e.Remedy, test.remedy) {
			t.Errorf("%s: verdict %d and remedy %q, expected %d and %q", test.err.Code, e.Verdict, e.Remedy, test.verdict, test.remedy)
		}
	}
}

// The text of a server's error has the constraint, detail and hint, each once.
func TestServerText(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]*pgconn.PgError{
		"m":                     {Message: "m"},
		"m; constraint c":       {Message: "m", ConstraintName: "c"},
		"m of c; d":             {Message: "m of c", ConstraintName: "c", Detail: "d"},
		"m; constraint c; d; h": {Message: "m", ConstraintName: "c", Detail: "d", Hint: "h"},
	} {
		if got := serverText(e); got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
}
