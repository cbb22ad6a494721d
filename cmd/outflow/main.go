// Command outflow keeps each tenant's rows in that tenant's own Postgres, live.
package main

import (
	"os"

	"outflow/internal/command"
)

// version is set when the program is built: -ldflags "-X main.version=...".
var version = "dev"

func main() { os.Exit(command.Main(version)) }
