package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/sink/external"
)

// TestProvidersStrings applies to a server that takes SCRAM over TLS only, with strings as providers and other programs write them: the
// policy's verify-full counts, and channel_binding=require is kept.
func TestProvidersStrings(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	s := newSecured(t)
	ca := newAuthority(t)
	w := newWorld(t, s.cluster)
	w.openPolicy()
	w.cfg.Destinations.Policy.MinSSLMode = "verify-full"
	theirs := pgtest.Database(t, s.cluster)
	name := theirs[strings.LastIndexByte(theirs, '/')+1:]
	name, _, _ = strings.Cut(name, "?")
	w.exec(`SET password_encryption = 'scram-sha-256'; CREATE ROLE scrammed LOGIN SUPERUSER PASSWORD 'pencil'`)
	s.shows(ca.certificate(t, nil))
	s.hba("hostssl all scrammed all scram-sha-256", "host all scrammed all reject", "host all,replication all all trust")
	w.existing(3, tenant1)
	r := w.start()
	for i, query := range []string{
		"sslmode=require&channel_binding=require", "ssl=true&application_name=stack&connect_timeout=10", "sslmode=prefer&pgbouncer=true", "sslmode=no-verify",
		"sslmode=allow&options=endpoint%3Dep-cool-darkness-123456", "sslmode=disable", "channel_binding=prefer&sslmode=require&supa=base-pooler.x",
	} {
		dsn := fmt.Sprintf("postgresql://scrammed:pencil@localhost:%s/%s?%s", s.port, name, query)
		w.exec(`DELETE FROM outflow.destination`)
		r.has(0)
		w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, ca) VALUES ($1, $2, $3, $4)`, tenant1, fmt.Sprintf("theirs%d", i), dsn, ca.pem)
		r.has(1)
		w.user(tenant1, fmt.Sprintf("00000000-0000-4000-9000-00000000000%d", i), query)
		r.caughtUp()
		w.equal(tenant1, theirs)
	}
	// Without SCRAM there is no binding, and channel_binding=require refuses the login.
	w.exec(`UPDATE outflow.destination SET dsn = $1`, strings.Replace(s.dsn("localhost", name, "require"), "?", "?channel_binding=require&", 1))
	waitFor(t, "the refusal", func() error {
		err := r.Router.Destinations()[0].Status().Err
		if e := (*external.Error)(nil); errors.As(err, &e) && strings.Contains(e.Error(), "channel binding required") {
			return nil
		}
		return fmt.Errorf("it is %w", err)
	})
	w.checked(pipeline.Selection{}).says(t, "destination "+tenant1+"/theirs6", primary.Failed, "connection", "channel binding required", "")
}
