package tenantdsn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"outflow/internal/strictyaml"
)

// Policy is the operator's word on where tenants' connection strings may lead.
type Policy struct {
	// MinSSLMode is the weakest mode of a connection, one of SSLModes: a string that asks for less gets MinSSLMode.
	MinSSLMode    string         `yaml:"min_sslmode" default:"verify-full" oneof:"disable,require,verify-ca,verify-full"`
	AllowNetworks []netip.Prefix `yaml:"allow_networks"`            // exceptions from the denied addresses
	Ports         []uint16       `yaml:"ports" default:"5432,6432"` // empty: any
}

// Validate gives the values that cannot be meant; nil where all can.
func (p *Policy) Validate() []strictyaml.Invalid {
	faults := strictyaml.Check(p)
	for i, port := range p.Ports {
		if port == 0 {
			faults = append(faults, strictyaml.Invalid{Key: fmt.Sprintf("ports[%d]", i), Message: "expected a port from 1 to 65535"})
		}
	}
	return faults
}

// denied are the addresses without an owner on the public internet (IANA's special-purpose registries): private and shared networks,
// loopback, link-local with the clouds' metadata services, documentation, benchmarks, multicast, and the ways to write an IPv4 address as
// an IPv6 one.
var denied = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/128", "::1/128", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	"5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	// ::a.b.c.d, IPv4-compatible: deprecated, and no host's
	"::/96")

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// CheckAddress refuses an address forbidden to tenants. network and address are the arguments of [net.Dialer.Control]: after DNS.
func (p Policy) CheckAddress(network, address string) error {
	if network != "tcp4" && network != "tcp6" {
		return &Error{class: classBlocked, text: fmt.Sprintf("a connection over %s is not allowed", network)}
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return &Error{class: classBlocked, text: "an address that cannot be read is not allowed"}
	}
	ip := to.Addr().WithZone("").Unmap()
	within := func(n netip.Prefix) bool { return n.Contains(ip) }
	if slices.ContainsFunc(denied, within) && !slices.ContainsFunc(p.AllowNetworks, within) {
		return &Error{class: classBlocked, text: fmt.Sprintf("address %s is not public", ip),
			remedy: "use a database with a public address, or ask the operator to extend destinations.policy.allow_networks"}
	}
	return p.checkPort(to.Port())
}

func (p Policy) checkPort(port uint16) error {
	if len(p.Ports) == 0 || slices.Contains(p.Ports, port) {
		return nil
	}
	allowed := make([]string, len(p.Ports))
	for i, n := range p.Ports {
		allowed[i] = fmt.Sprint(n)
	}
	return &Error{class: classBlocked, text: fmt.Sprintf("port %d is not allowed; allowed are %s", port, strings.Join(allowed, ", ")),
		remedy: "use another port, or ask the operator to extend destinations.policy.ports"}
}

// control is the check in the form called by the dialer.
func (p Policy) control(network, address string, _ syscall.RawConn) error {
	return p.CheckAddress(network, address)
}
