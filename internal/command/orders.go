package command

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"outflow/internal/fit"
	"outflow/internal/pipeline"
	"outflow/sink/ledger"
)

// order is common to pause, resume, retry and resync: a note on the primary with which the command asks something of the process that reads the
// slot, or of the next process.
type order struct {
	settings
	by, reason string // for the record
}

// flags adds the flags; reason says what --reason is good for.
func (o *order) flags(c *cobra.Command, reason string) {
	o.settings.flags(c)
	c.Flags().StringVar(&o.reason, "reason", "", reason)
	c.Flags().StringVar(&o.by, "by", whoami(), "who")
}

// open loads the configuration and opens the notes on the primary, which the caller closes.
func (o *order) open() (*ledger.Store, error) {
	cfg, err := o.load()
	if err != nil {
		return nil, err
	}
	return pipeline.Ledger(cfg)
}

// named finds a destination by TENANT/NAME.
func named(known []ledger.Destination, target string) (d ledger.Destination, ok bool) {
	at := slices.IndexFunc(known, func(n ledger.Destination) bool { return n.Tenant+"/"+n.Name == target })
	if at < 0 {
		return d, false
	}
	return known[at], true
}

// checkChoice refuses names that no destination can have, before a server is asked for the names.
func checkChoice(s pipeline.Selection) error {
	if err := fit.Check(s.Tenant, fit.Tenant); err != nil {
		return usageError{fmt.Errorf("--tenant: %w", err)}
	}
	if err := fit.Check(s.Name, fit.Name); err != nil {
		return usageError{fmt.Errorf("--name: %w", err)}
	}
	return nil
}

// whoami is for the record only: any person may say anything.
func whoami() string {
	host, _ := os.Hostname()
	user := os.Getenv("SUDO_USER")
	if user == "" {
		user = os.Getenv("USER")
	}
	if user == "" {
		user = fmt.Sprintf("uid %d", os.Getuid())
	}
	return user + "@" + host
}
