package config

import (
	"os"
	"strings"
)

// Scrub removes from the process's environment everything pgx would add to any
// connection string: every PG* variable, and HOME, under which pgx finds
// passwords, services and certificates. Otherwise the primary's password would
// be offered to tenants' servers. Scrub is called once, after Load, which has
// put the source's share into Source.DSN, and before anything connects.
func Scrub() {
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "PG") || name == "HOME" {
			// Unsetenv fails for names no environment can hold.
			_ = os.Unsetenv(name)
		}
	}
}
