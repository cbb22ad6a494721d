package tenantdsn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// MaxCA is the greatest number of bytes of a tenant's certificates.
	MaxCA = 64 << 10
	// addressesTried bounds how many addresses of a name are dialled.
	addressesTried = 8
)

// Parse makes a configuration of a tenant's connection string. ca is PEM content, certificates which must sign the server's certificate, or
// "" for the certificates trusted by the system. No connection is made, and no name is looked up. The error is an [*Error].
func Parse(dsn, ca string, p Policy, connectTimeout time.Duration) (*pgconn.Config, error) {
	s, err := read(dsn)
	if err != nil {
		return nil, err
	}
	port, err := s.check(p)
	if err != nil {
		return nil, err
	}
	protection, err := encryptionOf(s, p)
	if err != nil {
		return nil, err
	}
	tlsConfig, err := tlsOf(protection.mode, s["host"], ca)
	if err != nil {
		return nil, err
	}
	config, err := neutral()
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.Database, config.User, config.Password = s["host"], port, s["dbname"], s["user"], s["password"]
	config.TLSConfig, config.ChannelBinding = tlsConfig, protection.binding
	config.ConnectTimeout = connectTimeout
	dialer := &net.Dialer{Control: p.control, KeepAlive: 30 * time.Second}
	config.DialFunc = dialer.DialContext
	config.LookupFunc = lookup
	protection.explain(config)
	Bound(config)
	return config, nil
}

// Bound limits the memory and the work that a server can cause through the configuration's connections. Bound is for operators' connection
// strings too, which may lead to a tenant's server.
func Bound(config *pgconn.Config) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		m := &meter{Conn: conn}
		m.left.Store(startBytes)
		return m, nil
	}
	config.MaxProtocolMessageBodyLen = maxMessage
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		g := &guard{r: r, w: w, meter: meterOf(w)}
		return pgproto3.NewFrontend(g, g)
	}
}

// Heavy reports whether pgx keeps a large row in the memory of a connection bounded by Bound.
func Heavy(conn *pgconn.PgConn) bool { return meterOf(conn.Conn()).heavy.Load() }

// meterOf finds the meter under a connection made by DialFunc.
func meterOf(w io.Writer) *meter {
	if conn, ok := w.(*tls.Conn); ok {
		return conn.NetConn().(*meter)
	}
	return w.(*meter)
}

// neutral is a configuration with nothing of the environment, the home directory or a file. pgx wants a configuration made by pgx's own
// parser; every key with another source is given, and everything is overwritten.
func neutral() (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(`host=none port=5432 user=none password=none dbname=none sslmode=disable passfile='' servicefile='' ` +
		`sslkey='' sslcert='' sslrootcert='' sslpassword='' sslcertmode=disable sslnegotiation=postgres sslsni=1 application_name=outflow ` +
		`connect_timeout=5 target_session_attrs=any channel_binding=prefer require_auth='' min_protocol_version=3.0 max_protocol_version=3.0`)
	if err != nil {
		return nil, fmt.Errorf("the environment of the process interferes: %w", err)
	}
	config.Fallbacks = nil
	config.RuntimeParams = map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}
	config.ValidateConnect, config.AfterConnect, config.AfterNetConnect, config.OAuthTokenProvider = nil, nil, nil, nil
	config.KerberosSrvName, config.KerberosSpn = "", ""
	config.SSLCertMode, config.SSLNegotiation = "disable", "postgres"
	config.RequireAuth, config.MinProtocolVersion, config.MaxProtocolVersion = "", "3.0", "3.0"
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	return config, nil
}

func lookup(ctx context.Context, host string) ([]string, error) {
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	return addresses[:min(len(addresses), addressesTried)], err
}

// tlsOf is the configuration for one of SSLModes. With a tenant's own authorities, require checks the authorities too, as in libpq. The
// host is named to the server in each mode (SNI) where the host is a name: proxies such as Neon's find the database by that name.
func tlsOf(mode, host, ca string) (*tls.Config, error) {
	if mode == "disable" {
		return nil, nil
	}
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if ca != "" {
		if len(ca) > MaxCA {
			return nil, &Error{class: classConfiguration, text: fmt.Sprintf("ca: longer than %d bytes", MaxCA)}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(ca)) {
			return nil, &Error{class: classConfiguration, text: "ca: expected PEM certificates, beginning with -----BEGIN CERTIFICATE-----"}
		}
	}
	switch {
	case mode == "verify-full":
	case mode == "verify-ca" || ca != "":
		c.InsecureSkipVerify = true // the name alone is not checked; the chain is, here:
		roots := c.RootCAs
		c.VerifyConnection = func(state tls.ConnectionState) error { return verifyChain(state, roots) }
	default:
		c.InsecureSkipVerify = true
	}
	return c, nil
}

func verifyChain(state tls.ConnectionState, roots *x509.CertPool) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range slices.Clone(state.PeerCertificates[1:]) {
		o.Intermediates.AddCert(c)
	}
	if _, err := state.PeerCertificates[0].Verify(o); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}
