package tenantdsn

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// keys are the keys that count. All other keys are refused, except those of passedOver: a key that names a file, a service or a second
// server would lead out of the string (hostaddr, service, servicefile, passfile, sslkey, sslcert, sslrootcert, sslcrl, krbsrvname,
// target_session_attrs), and an unknown key may say something that the tenant relies on.
var keys = []string{"host", "port", "user", "password", "dbname", "sslmode", "ssl", "channel_binding", "options"}

// passedOver are the keys that have no effect. Providers and other programs write them into the strings that tenants copy. No value of them
// makes the connection weaker, or leads elsewhere, by being ignored. The values are not read.
var passedOver = []string{
	"application_name",          // the connection is named outflow, so that an administrator of the server recognizes it
	"fallback_application_name", // the same
	"connect_timeout",           // sink.connect_timeout is the operator's, and bounds how long a server can hold a place
	"keepalives",                // Outflow sends keepalives, and each operation has a deadline
	"keepalives_idle",           // the same
	"keepalives_interval",       // the same
	"keepalives_count",          // the same
	"tcp_user_timeout",          // the same
	"pgbouncer",                 // Prisma's word for a pooler; Outflow works through a pooler without being told
	"statement_cache_size",      // Prisma's, for the same purpose
	"connection_limit",          // the size of Prisma's pool; Outflow has one connection for each destination
	"pool_timeout",              // the wait for Prisma's pool
	"uselibpqcompat",            // has node-postgres read sslmode as libpq does, and so does Outflow
	"supa",                      // Supabase's note of the program that the string was made for
}

// endpointOption is the only value of options that is accepted: Neon's name of a compute endpoint (project is the older word).
var endpointOption = regexp.MustCompile(`^(endpoint|project)=[A-Za-z0-9-]+$`)

// checkOptions accepts Neon's endpoint, without effect. Neon asks for the option from clients that do not name the server in the TLS
// handshake (SNI). Outflow names the server wherever the host is a name, and Neon refuses a login with an option and a server name that
// differ, so the option never says more than the host. A pooler or a Postgres in the place of Neon's proxy would refuse the start-up
// parameter. A host that is an address cannot be named in the handshake: with the option such a string is refused, because the login would
// fail for a reason that the tenant cannot see.
func (s settings) checkOptions() error {
	options, given := s["options"]
	switch {
	case !given:
		return nil
	case !endpointOption.MatchString(options):
		return wrong("options: only endpoint=NAME, Neon's, is allowed")
	}
	if _, err := netip.ParseAddr(s["host"]); err == nil {
		return wrong("options: Neon's endpoint needs a host that is a name, not an address")
	}
	return nil
}

func allowed(key string) bool { return slices.Contains(keys, key) || slices.Contains(passedOver, key) }

// allowedKeys is for messages.
func allowedKeys() string {
	return strings.Join(keys, ", ") + "; without effect " + strings.Join(passedOver, ", ")
}
