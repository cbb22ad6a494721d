package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	bignum "math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/replication/primary"
	"outflow/sink/external"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

var serials atomic.Int64

// certificate makes a certificate, signed by a; a nil authority makes a certificate signed by its own key.
func (a *authority) certificate(t *testing.T, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{SerialNumber: bignum.NewInt(serials.Add(1)), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(t, err)
	c, err = x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert: c, key: key, pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func newAuthority(t *testing.T) *authority {
	return (*authority)(nil).certificate(t, func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.IsCA, c.ExtKeyUsage = "an authority", nil, true, nil
		c.KeyUsage = x509.KeyUsageCertSign
	})
}

func (a *authority) keyPEM(t *testing.T) string {
	der, err := x509.MarshalECPrivateKey(a.key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// secured is a server whose TLS the test decides.
type secured struct {
	t       *testing.T
	cluster *pgcluster.Cluster
	db      *pgx.Conn
	dir     string
	port    string
}

func newSecured(t *testing.T) *secured {
	s := &secured{t: t, cluster: pgtest.New(t, pgcluster.Options{Settings: map[string]string{"fsync": "off"}})}
	s.db = connect(t, s.cluster.DSN("postgres"))
	must(t, s.db.QueryRow(t.Context(), `SHOW data_directory`).Scan(&s.dir))
	if _, err := os.Stat(s.dir); err != nil {
		t.Skip("the server's files are out of reach: ", err)
	}
	var err error
	_, s.port, err = net.SplitHostPort(s.cluster.Addr())
	must(t, err)
	return s
}

// write writes a file for the server alone: the server refuses a key with rights of others.
func (s *secured) write(name, text string) {
	s.t.Helper()
	about, err := os.Stat(s.dir)
	must(s.t, err)
	file := filepath.Join(s.dir, name)
	must(s.t, os.WriteFile(file, []byte(text), 0o600))
	if owner, ok := about.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		must(s.t, os.Chown(file, int(owner.Uid), int(owner.Gid)))
	}
}

// shows has the server show a certificate to every later connection.
func (s *secured) shows(cert *authority, settings ...string) {
	s.t.Helper()
	s.write("server.crt", cert.pem)
	s.write("server.key", cert.keyPEM(s.t))
	for _, set := range append(settings, "ssl = on") {
		exec(s.t, s.db, "ALTER SYSTEM SET "+set)
	}
	exec(s.t, s.db, `SELECT pg_reload_conf()`)
	waitFor(s.t, "the server to show the certificate", func() error {
		conn, err := net.Dial("tcp4", "127.0.0.1:"+s.port)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err = conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil { // SSLRequest
			return err
		}
		answer := make([]byte, 1)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 'S' {
			return fmt.Errorf("%q, %w", answer, err)
		}
		client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil {
			return err
		}
		if shown := client.ConnectionState().PeerCertificates[0].SerialNumber; shown.Cmp(cert.cert.SerialNumber) != 0 {
			return fmt.Errorf("it shows %s", shown)
		}
		return nil
	})
}

// hba has the server admit connections by the given lines.
func (s *secured) hba(lines ...string) {
	s.t.Helper()
	s.write("pg_hba.conf", strings.Join(lines, "\n")+"\n")
	exec(s.t, s.db, `SELECT pg_reload_conf()`)
	waitFor(s.t, "the new pg_hba.conf", func() error {
		_, err := pgx.Connect(s.t.Context(), "host=127.0.0.1 port="+s.port+" user=postgres dbname=no_such_database sslmode=disable")
		if first := "reject"; strings.Contains(lines[0], first) == strings.Contains(fmt.Sprint(err), "pg_hba.conf rejects") {
			return nil
		}
		return err
	})
}

// dsn is a connection string for a name of the server.
func (s *secured) dsn(host, database, mode string) string {
	return fmt.Sprintf("postgres://postgres:secret@%s:%s/%s?sslmode=%s", host, s.port, database, mode)
}

// TestTLSHandshakes has a server show certificates of all kinds to a tenant's destination, an operator's destination and the primary's two
// connections. Each refusal names the host, the cause and the remedy; the others connect.
func TestTLSHandshakes(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	s := newSecured(t)
	ca, other := newAuthority(t), newAuthority(t)
	w := newWorld(t, s.cluster)
	w.openPolicy()
	w.cfg.Destinations.Policy.AllowNetworks = append(w.cfg.Destinations.Policy.AllowNetworks, netip.MustParsePrefix("::1/128")) // of localhost
	w.start().end()                                                                                                             // makes the schema outflow
	external := pgtest.Database(t, s.cluster)
	database := func(dsn string) string {
		u, err := url.Parse(dsn)
		must(t, err)
		return strings.TrimPrefix(u.Path, "/")
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(caFile, []byte(ca.pem), 0o600))
	leaf := func(by *authority, change func(*x509.Certificate)) *authority { return by.certificate(t, change) }
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	future := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	elsewhere := func(c *x509.Certificate) { c.DNSNames = []string{"elsewhere.example"} }
	for _, c := range []struct {
		name          string
		cert          *authority
		ca            string // for the tenant's; the file for the operator's and the primary's
		mode          string
		cause, remedy string // "": the handshake succeeds
	}{
		{"in order", leaf(ca, nil), ca.pem, "verify-full", "", ""},
		{"the authority is not known", leaf(ca, nil), "", "verify-full", "unknown authority", "the column ca"},
		{"another authority", leaf(other, nil), ca.pem, "verify-full", "unknown authority", "sslrootcert"},
		{"signed by itself", leaf(nil, nil), ca.pem, "verify-full", "certificate", "authority"},
		{"expired", leaf(ca, expired), ca.pem, "verify-full", "expired", "renew"},
		{"not yet valid", leaf(ca, future), ca.pem, "verify-full", "not yet valid", "clocks"},
		{"another host", leaf(ca, elsewhere), ca.pem, "verify-full", "elsewhere.example", "name in the server's certificate"},
		{"another host, verify-ca", leaf(ca, elsewhere), ca.pem, "verify-ca", "", ""},
		{"expired, verify-ca", leaf(ca, expired), ca.pem, "verify-ca", "expired", "renew"},
		{"signed by itself, require", leaf(nil, expired), "", "require", "", ""},
		{"another authority, require with ca", leaf(other, nil), ca.pem, "require", "unknown authority", "authority"},
	} {
		s.shows(c.cert)
		dsn := s.dsn("localhost", database(external), c.mode)
		tenants := fmt.Sprintf("%s: %s", "a tenant's", c.name)
		w.exec(`DELETE FROM outflow.destination`)
		w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, ca) VALUES ($1, 'theirs', $2, nullif($3, ''))`, tenant1, dsn, c.ca)
		if c.ca != "" {
			dsn += "&sslrootcert=" + url.QueryEscape(caFile)
		}
		w.cfg.Destinations.Static = nil
		w.addDestination(tenant2, "ours", dsn)
		report := w.checked(pipeline.Selection{})
		for group, host := range map[string]string{"destination " + tenant1 + "/theirs": tenants, "destination " + tenant2 + "/ours": "an operator's: " + c.name} {
			if c.cause == "" {
				report.says(t, group, primary.Passed, "connection", "localhost:"+s.port, "")
				continue
			}
			report.says(t, group, primary.Failed, "connection", c.cause, c.remedy)
			report.says(t, group, primary.Failed, "connection", "localhost", "")
			if t.Failed() {
				t.Fatalf("%s:\n%s", host, report.text())
			}
		}
		s.primary(w, c.name, database(w.source), c.mode, c.ca, caFile, c.cause, c.remedy)
	}
}

// primary tries the primary's connection in the same way.
func (s *secured) primary(w *world, name, database, mode, ca, caFile, cause, remedy string) {
	s.t.Helper()
	dsn := s.dsn("localhost", database, mode)
	if ca != "" {
		dsn += "&sslrootcert=" + url.QueryEscape(caFile)
	}
	server, err := primary.New(dsn)
	must(s.t, err)
	conn, err := server.Connect(s.t.Context())
	if err == nil {
		_ = conn.Close(context.Background())
		if cause != "" {
			s.t.Errorf("the primary, %s: it connects", name)
		}
		copied := *w
		cfg := *w.cfg
		cfg.Source.DSN, cfg.Destinations.Static, cfg.Destinations.Query = secret.New(dsn), nil, ""
		copied.cfg = &cfg
		copied.checked(pipeline.Selection{}).says(s.t, "primary localhost", primary.Passed, "replication connection", "", "")
		return
	}
	err = primary.ExplainConnect(server, err)
	problem := (*primary.Problem)(nil)
	if cause == "" || !errors.As(err, &problem) || !strings.Contains(err.Error(), cause) || !strings.Contains(err.Error(), "localhost:"+s.port) ||
		!strings.Contains(problem.Remedy, strings.Replace(remedy, "the column ca", "sslrootcert", 1)) {
		s.t.Errorf("the primary, %s: %v", name, err)
	}
}

// TestTLSOfAServer has servers that refuse TLS, that ask for a client's certificate, and that speak TLS 1.0 only.
func TestTLSOfAServer(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	ca := newAuthority(t)
	w := newWorld(t, s.cluster)
	w.openPolicy()
	w.cfg.Destinations.Policy.AllowNetworks = append(w.cfg.Destinations.Policy.AllowNetworks, netip.MustParsePrefix("::1/128")) // of localhost
	w.exec(`CREATE ROLE certified LOGIN REPLICATION SUPERUSER`)
	r := w.start()
	theirs := func(dsn, class, cause, remedy string) {
		t.Helper()
		w.exec(`DELETE FROM outflow.destination`)
		w.exec(`INSERT INTO outflow.destination (tenant_id, name, dsn, ca) VALUES ($1, 'theirs', $2, $3)`, tenant1, dsn, ca.pem)
		w.checked(pipeline.Selection{}).says(t, "destination "+tenant1+"/theirs", primary.Failed, "connection", cause, remedy)
		waitFor(t, "the class "+class, func() error {
			all := r.Router.Destinations()
			if len(all) != 1 {
				return fmt.Errorf("there are %d destinations", len(all))
			}
			err := all[0].Status().Err
			if e := (*external.Error)(nil); errors.As(err, &e) && e.Class() == class && strings.Contains(e.Error(), cause) && strings.Contains(e.Error(), remedy) {
				return nil
			}
			return fmt.Errorf("it is %w", err)
		})
	}
	theirs(s.dsn("localhost", "postgres", "verify-full"), external.ClassTLS, "server refused TLS connection", "ssl = on")

	s.shows(ca.certificate(t, func(c *x509.Certificate) { c.DNSNames = []string{"elsewhere.example"} }))
	theirs(s.dsn("localhost", "postgres", "verify-full"), external.ClassTLS, "elsewhere.example", "name in the server's certificate")
	s.shows(ca.certificate(t, nil))
	s.write("root.crt", ca.pem)
	exec(t, s.db, `ALTER SYSTEM SET ssl_ca_file = 'root.crt'`)
	s.hba("hostssl all certified all cert", "host all,replication all all trust")
	asked := strings.Replace(s.dsn("localhost", "postgres", "verify-full"), "postgres:secret@", "certified:secret@", 1)
	theirs(asked, external.ClassAuth, "client certificate", "clientcert")
	server, err := primary.New(strings.Replace(asked, "verify-full", "require", 1))
	must(t, err)
	if _, err := server.Connect(t.Context()); err == nil || !strings.Contains(primary.ExplainConnect(server, err).Error(), "clientcert") {
		t.Errorf("the primary asks for a certificate: %v", err)
	}
	old := oldServer(t, ca.certificate(t, nil))
	theirs("postgres://u:p@localhost:"+old+"/d?sslmode=verify-full", external.ClassTLS, "protocol version", "TLS 1.2")
	none := downgrader(t)
	theirs("postgres://u:p@localhost:"+none+"/d?sslmode=require", external.ClassTLS, "server refused TLS connection", "ssl = on")
	theirs("postgres://u:p@localhost:"+none+"/d?sslmode=prefer", external.ClassTLS, "sslmode=prefer of the connection string was raised to sslmode=require", "ssl = on")
	w.cfg.Destinations.Policy.MinSSLMode = "verify-full"
	for _, mode := range []string{"disable", "require", "verify-ca"} { // raised
		w.exec(`UPDATE outflow.destination SET dsn = $1`, s.dsn("localhost", "postgres", mode))
		w.checked(pipeline.Selection{}).says(t, "destination "+tenant1+"/theirs", primary.Passed, "connection", "", "")
	}
}

// oldServer answers SSLRequest and speaks TLS 1.0 only.
func oldServer(t *testing.T, cert *authority) (port string) {
	pair, err := tls.X509KeyPair([]byte(cert.pem), []byte(cert.keyPEM(t)))
	must(t, err)
	return answering(t, func(conn net.Conn) {
		_, _ = conn.Write([]byte{'S'})
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}).Handshake()
	})
}

// downgrader refuses TLS, as an attacker in the middle would, and fails the test where the client goes on without TLS.
func downgrader(t *testing.T) (port string) {
	return answering(t, func(conn net.Conn) {
		_, _ = conn.Write([]byte{'N'})
		buf := make([]byte, 1024)
		if n, _ := conn.Read(buf); n > 0 {
			t.Errorf("after a refusal of TLS it sends %q", buf[:n])
		}
	})
}

// answering serves connections after their first message, one after the other.
func answering(t *testing.T, serve func(net.Conn)) (port string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := conn.Read(make([]byte, 64)); err == nil {
				serve(conn)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	must(t, err)
	return port
}
