package config

import (
	"net"
	"strconv"
)

// minToken is the length below which a token could be guessed.
const minToken = 16

// Loopback reports whether only this machine can reach the address.
func (a Admin) Loopback() bool {
	host, _, err := net.SplitHostPort(a.Listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

func (l *loader) validateAdmin() {
	a := &l.config.Admin
	if !a.Token.IsZero() && len(a.Token.Reveal()) < minToken {
		l.faultAt("admin.token", "expected at least %d characters", minToken)
	}
	for i, name := range a.Hosts {
		if _, _, err := net.SplitHostPort(name); name == "" || err == nil {
			at := listPath("admin.hosts", i, l.config)
			l.faultAt(at, "expected a host name without a port, found %s", l.show(at, name))
		}
	}
	if a.Listen == "" {
		return
	}
	_, port, err := net.SplitHostPort(a.Listen)
	if n, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || n > 65535 {
		l.faultAt("admin.listen", "expected host:port, such as 127.0.0.1:8090, or \"\" for none, found %s", l.show("admin.listen", a.Listen))
		return
	}
	if a.Token.IsZero() && !a.Loopback() && !l.noFile {
		l.faultAt("admin.listen", "others can reach %s, and there is no token: set admin.token (OUTFLOW_ADMIN_TOKEN or OUTFLOW_ADMIN_TOKEN_FILE), or listen on 127.0.0.1",
			l.show("admin.listen", a.Listen))
	}
}
