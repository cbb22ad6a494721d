package tenantdsn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// modeOf is the mode of a configuration, found out from what a handshake would check.
func modeOf(c *pgconn.Config) string {
	switch {
	case c.TLSConfig == nil:
		return "disable"
	case !c.TLSConfig.InsecureSkipVerify:
		return "verify-full"
	case c.TLSConfig.VerifyConnection != nil:
		return "verify-ca"
	}
	return "require"
}

// Each mode and each policy: the stricter of both, and never a fallback.
func TestModes(t *testing.T) {
	type want struct{ disable, require, verifyCA, verifyFull string } // by the policy's min_sslmode
	for asked, want := range map[string]want{
		"":                             {"verify-full", "verify-full", "verify-full", "verify-full"},
		"sslmode=disable":              {"disable", "require", "verify-ca", "verify-full"},
		"sslmode=allow":                {"require", "require", "verify-ca", "verify-full"},
		"sslmode=prefer":               {"require", "require", "verify-ca", "verify-full"},
		"sslmode=no-verify":            {"require", "require", "verify-ca", "verify-full"},
		"sslmode=require":              {"require", "require", "verify-ca", "verify-full"},
		"sslmode=verify-ca":            {"verify-ca", "verify-ca", "verify-ca", "verify-full"},
		"sslmode=verify-full":          {"verify-full", "verify-full", "verify-full", "verify-full"},
		"ssl=true":                     {"verify-full", "verify-full", "verify-full", "verify-full"},
		"ssl=1":                        {"verify-full", "verify-full", "verify-full", "verify-full"},
		"ssl=false":                    {"disable", "require", "verify-ca", "verify-full"},
		"ssl=0":                        {"disable", "require", "verify-ca", "verify-full"},
		"ssl=true&sslmode=require":     {"require", "require", "verify-ca", "verify-full"},
		"ssl=true&sslmode=disable":     {"require", "require", "verify-ca", "verify-full"},
		"ssl=false&sslmode=verify-ca":  {"verify-ca", "verify-ca", "verify-ca", "verify-full"},
		"ssl=false&sslmode=disable":    {"disable", "require", "verify-ca", "verify-full"},
		"sslmode=require&ssl=":         {"require", "require", "verify-ca", "verify-full"},
		"sslmode=&ssl=true":            {"verify-full", "verify-full", "verify-full", "verify-full"},
		"ssl=yes":                      {},
		"ssl=require":                  {},
		"ssl=true&ssl=false":           {},
		"sslmode=verify-full%20":       {},
		"sslmode=maybe":                {},
		"sslmode=prefer,disable":       {},
		"ssl=true&sslmode=VERIFY-FULL": {},
	} {
		for i, least := range SSLModes {
			expected := reflect.ValueOf(want).Field(i).String()
			c, err := Parse(good+"?"+asked, "", Policy{MinSSLMode: least}, time.Second)
			switch {
			case expected == "" && class(err) != "configuration":
				t.Errorf("%s with min_sslmode %s: %v", asked, least, err)
			case expected == "":
			case err != nil:
				t.Errorf("%s with min_sslmode %s: %v", asked, least, err)
			case modeOf(c) != expected || c.Fallbacks != nil:
				t.Errorf("%s with min_sslmode %s: %s, expected %s; fallbacks %v", asked, least, modeOf(c), expected, c.Fallbacks)
			}
		}
	}
}

// Strings as providers and other programs write them.
func TestProvidersStrings(t *testing.T) {
	for _, c := range []struct{ dsn, binding string }{
		{"postgresql://neondb_owner:npg_x@ep-cool-darkness-a1b2c3-pooler.us-east-2.aws.neon.tech/neondb?sslmode=require&channel_binding=require", "require"},
		{"postgres://u:p@ep-cool-darkness-123456.us-east-2.aws.neon.tech/d?options=endpoint%3Dep-cool-darkness-123456&sslmode=require", "prefer"},
		{"postgres://u:p@ep-cool-darkness-123456.us-east-2.aws.neon.tech/d?options=project%3Dep-cool-darkness-123456", "prefer"},
		{"host=db.example.com user=u dbname=d options='endpoint=ep-a-1' sslmode=prefer channel_binding=prefer", "prefer"},
		{"postgres://postgres.ref:p@aws-0-eu-central-1.pooler.supabase.com:6432/postgres?sslmode=require&supa=base-pooler.x", "prefer"},
		{good + "?pgbouncer=true&connection_limit=1&pool_timeout=0&statement_cache_size=0", "prefer"},
		{good + "?ssl=true&application_name=stack&fallback_application_name=x&connect_timeout=10", "prefer"},
		{good + "?sslmode=require&uselibpqcompat=true&keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=1", "prefer"},
		{good + "?channel_binding=disable", "disable"},
		{good + "?channel_binding=&options=", "prefer"},
	} {
		parsed, err := Parse(c.dsn, "", strict, 3*time.Second)
		if err != nil {
			t.Errorf("%s: %v", c.dsn, err)
			continue
		}
		if parsed.ChannelBinding != c.binding || modeOf(parsed) != "verify-full" || parsed.ConnectTimeout != 3*time.Second || parsed.TLSConfig.ServerName != parsed.Host {
			t.Errorf("%s: %+v", c.dsn, *parsed)
		}
		if want := map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}; !reflect.DeepEqual(parsed.RuntimeParams, want) {
			t.Errorf("%s: start-up parameters %v", c.dsn, parsed.RuntimeParams)
		}
	}
	for _, key := range passedOver {
		if slices.Contains(keys, key) {
			t.Errorf("%s counts, and is passed over", key)
		}
	}
	for _, c := range [][2]string{
		{good + "?channel_binding=yes", "channel_binding: expected"}, {good + "?channel_binding=require&channel_binding=disable", "twice"},
		{good + "?options=-c%20search_path%3Dx", "options: only endpoint"}, {good + "?options=endpoint%3Da%20-c%20x%3Dy", "options: only endpoint"},
		{good + "?options=endpoint%3D", "options: only endpoint"}, {good + "?options=endpoint%3Da%0A", "options: only endpoint"},
		{good + "?options=endpoint%3Da+endpoint%3Db", "options: only endpoint"}, {good + "?options=neon_lsn:0/2", "options: only endpoint"},
		{"postgres://u@8.8.8.8/d?options=endpoint%3Da", "needs a host that is a name"}, {"postgres://u@[2606:4700::1111]/d?options=endpoint%3Da", "needs a host that is a name"},
	} {
		if _, err := Parse(c[0], "", strict, time.Second); class(err) != "configuration" || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, expected %s", c[0], err, c[1])
		}
	}
	if _, err := Parse(good+"?sslmode=disable&channel_binding=require", "", Policy{MinSSLMode: "disable"}, time.Second); class(err) != "configuration" || !strings.Contains(err.Error(), "needs TLS") {
		t.Errorf("channel binding without TLS: %v", err)
	}
}

// certificate is one that signs itself, for localhost.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// serveTLS is a server that answers the request for TLS with the first byte of answers, makes a handshake where the byte is S, and answers
// each message of the client with the next of these. heard gives what the client has sent after the handshake.
func serveTLS(t *testing.T, cert tls.Certificate, first byte, answers ...[]byte) (port string, heard func() string) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	serve := func() string {
		conn, err := listener.Accept()
		if err != nil {
			return ""
		}
		defer conn.Close()
		buf := make([]byte, 4096)
		if _, err := conn.Read(buf); err != nil {
			return ""
		}
		if _, err := conn.Write([]byte{first}); err != nil {
			return ""
		}
		if first == 'S' {
			conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
		}
		var all strings.Builder
		for _, a := range answers {
			n, err := conn.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				return all.String()
			}
			if _, err := conn.Write(a); err != nil {
				return all.String()
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		rest, _ := io.ReadAll(conn)
		return all.String() + string(rest)
	}
	go func() { said <- serve() }()
	t.Cleanup(func() { listener.Close() })
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, func() string { return <-said }
}

func connectTo(t *testing.T, port, ca, query, least string) error {
	t.Helper()
	p := Policy{MinSSLMode: least, AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	config, err := Parse(fmt.Sprintf("postgres://u:c4nary@localhost:%s/d?%s", port, query), ca, p, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}
	return err
}

// Where a raised mode fails, the error says so; the class of the error, and the certificate's fault in it, stay. Nothing is sent in plain text.
func TestRaisedModesSaySo(t *testing.T) {
	cert, ca := certificate(t)
	for _, c := range []struct {
		query, least string
		first        byte
		text         []string
	}{
		{"sslmode=prefer", "verify-full", 'N', []string{"server refused TLS connection", "sslmode=prefer of the connection string was raised to sslmode=verify-full", "min_sslmode"}},
		{"sslmode=disable", "require", 'N', []string{"server refused TLS connection", "sslmode=disable", "was raised to sslmode=require (destinations.policy.min_sslmode)"}},
		{"ssl=false", "require", 'N', []string{"ssl=false of the connection string was raised to sslmode=require"}},
		{"sslmode=allow", "disable", 'E', []string{"server refused TLS connection", "sslmode=allow of the connection string was raised to sslmode=require (Outflow does not fall back"}},
		{"sslmode=no-verify", "verify-full", 'S', []string{"certificate", "sslmode=no-verify of the connection string was raised to sslmode=verify-full"}},
		{"sslmode=require", "verify-ca", 'S', []string{"certificate", "was raised to sslmode=verify-ca"}},
		{"sslmode=require&channel_binding=require", "verify-full", 'S', []string{"certificate", "was raised to sslmode=verify-full"}},
	} {
		port, heard := serveTLS(t, cert, c.first, authOK)
		err := connectTo(t, port, "", c.query, c.least)
		if err == nil {
			t.Fatalf("%s: connected", c.query)
		}
		for _, text := range c.text {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, expected %s", c.query, err, text)
			}
		}
		if unknown := (x509.UnknownAuthorityError{}); c.first == 'S' && !errors.As(err, &unknown) {
			t.Errorf("%s: the cause is lost: %v", c.query, err)
		}
		if said := heard(); strings.Contains(said, "c4nary") || strings.Contains(said, "user\x00") {
			t.Errorf("%s: the server heard %q", c.query, said)
		}
	}
	// A mode that is followed fails without those words, and one that was raised works.
	port, _ := serveTLS(t, cert, 'S', authOK)
	if err := connectTo(t, port, "", "sslmode=verify-full", "verify-full"); err == nil || strings.Contains(err.Error(), "raised") {
		t.Errorf("sslmode=verify-full: %v", err)
	}
	for _, query := range []string{"sslmode=disable", "sslmode=prefer", "sslmode=require", "ssl=true", ""} {
		port, _ := serveTLS(t, cert, 'S', started)
		if err := connectTo(t, port, ca, query, "verify-full"); err != nil {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// With channel_binding=require no server gets a password, and no login counts, without a binding to the TLS connection.
func TestChannelBindingIsRequired(t *testing.T) {
	cert, ca := certificate(t)
	for name, answer := range map[string][]byte{
		"no login":            started,
		"a password in plain": message('R', "\x00\x00\x00\x03"),
		"md5":                 message('R', "\x00\x00\x00\x05salt"),
		"SCRAM without":       sasl,
	} {
		for _, query := range []string{"channel_binding=require", "sslmode=require&channel_binding=require"} {
			port, heard := serveTLS(t, cert, 'S', answer)
			err := connectTo(t, port, ca, query, "require")
			if err == nil || !strings.Contains(err.Error(), "channel binding required") {
				t.Errorf("%s: %v", name, err)
			}
			if said := heard(); strings.Contains(said, "c4nary") || strings.Contains(said, "md5") || strings.Contains(said, "n=,r=") {
				t.Errorf("%s: the server heard %q", name, said)
			}
		}
	}
	port, heard := serveTLS(t, cert, 'S', message('R', "\x00\x00\x00\x0aSCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"),
		message('E', "SFATAL\x00C28P01\x00Mno\x00\x00"))
	if err := connectTo(t, port, ca, "sslmode=require&channel_binding=require", "require"); err == nil {
		t.Error("a server that ends the login was taken for one")
	}
	if said := heard(); !strings.Contains(said, "SCRAM-SHA-256-PLUS") || !strings.Contains(said, "p=tls-server-end-point,,") {
		t.Errorf("with binding the server heard %q", said)
	}
}

// No text makes a configuration that is weaker than the policy, that leads elsewhere, or whose error shows a password.
func FuzzParse(f *testing.F) {
	for _, dsn := range []string{
		good, "host=h user=u dbname=d password='C4NARY' sslmode=prefer", good + "?sslmode=require&channel_binding=require",
		good + "?ssl=true&sslmode=disable", good + "?ssl=0", good + "?options=endpoint%3Dep-a", good + "?pgbouncer=true&application_name=C4NARY&connect_timeout=1",
		"postgres://u:C4NARY@[::1]:5432/d?sslmode=no-verify", "postgres://u:C4NARY@a,b/d", "host=a,b user=u dbname=d target_session_attrs=any", "host=/tmp user=u dbname=d",
		"sslmode=prefer&application_name=x", "channel_binding=disable", good + "?hostaddr=10.0.0.1", good + "?sslrootcert=/C4NARY", "postgres://u:C4#NARY@h/d", "host = 'x\\'C4NARY' sslmode = allow",
	} {
		for least := range SSLModes {
			f.Add(dsn, least)
		}
	}
	f.Fuzz(func(t *testing.T, dsn string, least int) {
		least = ((least % len(SSLModes)) + len(SSLModes)) % len(SSLModes)
		policy := Policy{MinSSLMode: SSLModes[least], Ports: strict.Ports}
		if c, err := Parse(good+"?channel_binding=require&"+dsn, "", policy, time.Second); err == nil && c.ChannelBinding != "require" {
			t.Errorf("channel_binding=require and %q: %s", dsn, c.ChannelBinding)
		}
		c, err := Parse(dsn, "", policy, time.Second)
		if err != nil {
			if own := (*Error)(nil); !errors.As(err, &own) || strings.Contains(err.Error(), "C4NARY") {
				t.Errorf("%q: %v", dsn, err)
			}
			return
		}
		if slices.Index(SSLModes, modeOf(c)) < least || c.Fallbacks != nil || c.SSLNegotiation != "postgres" {
			t.Errorf("%q: %s under %s, fallbacks %v", dsn, modeOf(c), SSLModes[least], c.Fallbacks)
		}
		if c.Host == "" || strings.ContainsAny(c.Host, "/,@%\\ ") || !slices.Contains(strict.Ports, c.Port) || c.User == "" || c.Database == "" {
			t.Errorf("%q leads to %q:%d", dsn, c.Host, c.Port)
		}
		if want := map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}; !reflect.DeepEqual(c.RuntimeParams, want) ||
			c.ValidateConnect != nil || c.ConnectTimeout != time.Second || c.SSLCertMode != "disable" || c.KerberosSrvName != "" || c.RequireAuth != "" {
			t.Errorf("%q: %+v", dsn, *c)
		}
	})
}
