package admin

import (
	"fmt"
	"net"
	"strconv"

	"outflow/internal/secret"
	"outflow/internal/strictyaml"
)

// Options say where the status API, the dashboard and the metrics are served, and to whom.
type Options struct {
	Listen string `yaml:"listen" default:"127.0.0.1:8090"` // host:port; port 0 takes a free one, "" is off
	// Token is the token of the API and the dashboard; without a token Listen must be loopback.
	Token         secret.Text `yaml:"token"`
	Hosts         []string    `yaml:"hosts"`          // names under which the server may be called, beside localhost and the host of Listen
	Pprof         bool        `yaml:"pprof"`          // serve /debug/pprof/
	TenantMetrics bool        `yaml:"tenant_metrics"` // a series for each destination
}

// minToken is the length below which a token could be guessed.
const minToken = 16

// Loopback reports whether only this machine can reach Listen.
func (o *Options) Loopback() bool {
	host, _, err := net.SplitHostPort(o.Listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Validate gives the options that cannot be meant; nil where all can.
func (o *Options) Validate() (faults []strictyaml.Invalid) {
	if !o.Token.IsZero() && len(o.Token.Reveal()) < minToken {
		faults = append(faults, strictyaml.Invalid{Key: "token", Message: fmt.Sprintf("expected at least %d characters", minToken)})
	}
	for i, name := range o.Hosts {
		if _, _, err := net.SplitHostPort(name); name == "" || err == nil {
			faults = append(faults, strictyaml.Invalid{Key: fmt.Sprintf("hosts[%d]", i), Message: "expected a host name without a port"})
		}
	}
	if o.Listen == "" {
		return faults
	}
	_, port, err := net.SplitHostPort(o.Listen)
	if n, wrong := strconv.ParseUint(port, 10, 16); err != nil || wrong != nil || n > 65535 {
		return append(faults, strictyaml.Invalid{Key: "listen", Message: "expected host:port, such as 127.0.0.1:8090, or \"\" for none"})
	}
	if o.Token.IsZero() && !o.Loopback() {
		faults = append(faults, strictyaml.Invalid{Key: "listen", Message: "expected an address that only this machine can reach, such as 127.0.0.1:8090, or a token in admin.token " +
			"(OUTFLOW_ADMIN_TOKEN or OUTFLOW_ADMIN_TOKEN_FILE)"})
	}
	return faults
}
