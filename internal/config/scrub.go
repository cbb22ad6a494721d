package config

import (
	"os"
	"strings"
)

// Scrub takes from the process's environment what pgx would add to any
// connection string: every PG* variable, and HOME, under which it finds
// passwords, services and certificates. Otherwise the primary's password would
// be offered to tenants' servers. It is called once, after Load, which has put
// into Source.DSN what belongs to it, and before anything connects.
func Scrub() {
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "PG") || name == "HOME" {
			// It fails for names that the environment cannot hold.
			_ = os.Unsetenv(name)
		}
	}
}
