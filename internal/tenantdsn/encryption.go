package tenantdsn

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// SSLModes are the modes of a connection, weakest first, and the values of [Policy.MinSSLMode].
var SSLModes = []string{"disable", "require", "verify-ca", "verify-full"}

// strength orders the values of sslmode in a tenant's string: libpq's, and no-verify, node-postgres' word for require.
var strength = map[string]int{"disable": 0, "allow": 1, "prefer": 2, "no-verify": 3, "require": 3, "verify-ca": 4, "verify-full": 5}

const askedModes = "disable, allow, prefer, no-verify, require, verify-ca, verify-full" // for messages

// encryption is how a connection is protected.
type encryption struct {
	mode    string // one of SSLModes
	raised  string // why mode is stricter than the string's, for messages; "" where the string is followed
	binding string // channel_binding, as libpq's: disable, prefer or require
}

// encryptionOf is what a string asks for, or more. A mode weaker than the policy's least is raised to the least, and allow and prefer are
// raised to require: both fall back to an unencrypted connection when an attacker in the middle asks for a fallback.
//
// Raising is safe: the connection becomes stricter, never weaker. The connection is encrypted where the string would do without encryption,
// and the server's certificate is checked where the string would take any certificate. At worst the connection fails before the password is
// sent, and the error says that the mode was raised. No mode is lowered, whatever the policy.
func encryptionOf(s settings, p Policy) (encryption, error) {
	asked, given := s["sslmode"]
	if !given {
		asked = defaultSSLMode
	}
	least, known := strength[asked]
	if !known {
		return encryption{}, wrong("sslmode: expected one of %s", askedModes)
	}
	words, stricter := "sslmode="+asked, least
	switch s["ssl"] {
	case "":
	case "true", "1": // TLS; sslmode says whether the certificate counts
		stricter = max(stricter, strength["require"])
	case "false", "0":
		if !given {
			words, least, stricter = "ssl=false", strength["disable"], strength["disable"]
		}
	default:
		return encryption{}, wrong("ssl: expected true or false")
	}
	reason := "Outflow does not fall back to an unencrypted connection"
	if floor := strength[p.MinSSLMode]; floor > stricter {
		stricter, reason = floor, "destinations.policy.min_sslmode"
	}
	e := encryption{mode: SSLModes[slices.IndexFunc(SSLModes, func(mode string) bool { return strength[mode] >= stricter })]}
	if strength[e.mode] > least {
		e.raised = fmt.Sprintf("%s of the connection string was raised to sslmode=%s (%s)", words, e.mode, reason)
	}
	var err error
	e.binding, err = s.channelBinding(e.mode)
	return e, err
}

// channelBinding is channel_binding as libpq has it. With require, pgx sends no password, and takes no login for valid, unless the login is
// SCRAM over TLS and bound to the server's certificate.
func (s settings) channelBinding(mode string) (string, error) {
	switch binding := s["channel_binding"]; {
	case binding == "":
		return "prefer", nil
	case binding == "require" && mode == "disable":
		return "", wrong("channel_binding=require needs TLS, so another mode than sslmode=disable")
	case slices.Contains([]string{"disable", "prefer", "require"}, binding):
		return binding, nil
	}
	return "", wrong("channel_binding: expected disable, prefer or require")
}

// explain has the connections of a configuration say that the mode was raised, where TLS fails.
func (e encryption) explain(config *pgconn.Config) {
	if e.raised == "" {
		return
	}
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &refusal{Conn: conn, raised: e.raised}, nil
	}
	// The handshake is otherwise a part of the first write, with an error that cannot be added to.
	config.AfterNetConnect = func(ctx context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
		if c, ok := conn.(*tls.Conn); ok {
			if err := c.HandshakeContext(ctx); err != nil {
				return conn, fmt.Errorf("%w; %s", err, e.raised)
			}
		}
		return conn, nil
	}
}

// refusal adds to a server's refusal of TLS that the mode was raised. The refusal is the first byte of the server.
type refusal struct {
	net.Conn
	raised   string
	answered bool
}

func (c *refusal) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.answered {
		c.answered = true
		if p[0] != 'S' {
			return 0, fmt.Errorf("server refused TLS connection; %s", c.raised)
		}
	}
	return n, err
}
