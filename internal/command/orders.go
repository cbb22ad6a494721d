package command

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"outflow/internal/config"
	"outflow/internal/fit"
	"outflow/internal/pipeline"
	"outflow/internal/strictyaml"
	"outflow/sink/ledger"
)

// order is common to pause, resume, retry and resync: a note on the primary with which the command asks something of the process that reads the
// slot, or of the next process.
type order struct {
	settings
	by, reason string // for the record

	cfg *config.Config // as loaded by open
}

// flags adds the flags; reason says what --reason is good for.
func (o *order) flags(c *cobra.Command, reason string) {
	o.settings.flags(c)
	c.Flags().StringVar(&o.reason, "reason", "", reason)
	c.Flags().StringVar(&o.by, "by", whoami(), "who")
}

// open loads the configuration and opens the notes on the primary, which the caller closes.
func (o *order) open() (state *ledger.Store, err error) {
	if o.cfg, err = o.load(); err != nil {
		return nil, err
	}
	return pipeline.Ledger(o.cfg)
}

// directory finds destinations by TENANT/NAME: among the notes on the primary, and among the configured destinations. The first note on a
// destination comes seconds after the destination.
type directory struct {
	noted      []ledger.Destination
	configured []pipeline.Selection
	fault      error // why configured may lack destinations
}

// find reads the notes, and the configured destinations only where a target is not among the usable notes.
func (o *order) find(ctx context.Context, state *ledger.Store, usable func(ledger.Destination) bool, targets []string) (d directory, err error) {
	all, err := state.Destinations(ctx, "", "")
	if err != nil {
		return d, err
	}
	d.noted = slices.DeleteFunc(all, func(n ledger.Destination) bool { return !usable(n) })
	if slices.ContainsFunc(targets, func(target string) bool { _, _, ok := d.named(target); return !ok }) {
		d.configured, d.fault = pipeline.Named(ctx, o.cfg)
	}
	return d, nil
}

// named finds a destination. begun reports whether there is a note on the destination.
func (d directory) named(target string) (s pipeline.Selection, begun, ok bool) {
	for _, n := range d.noted {
		if n.Tenant+"/"+n.Name == target {
			return pipeline.Selection{Tenant: n.Tenant, Name: n.Name}, true, true
		}
	}
	for _, s := range d.configured {
		if s.Tenant+"/"+s.Name == target {
			return s, false, true
		}
	}
	return s, false, false
}

// hint names the destination, or the other word, of which target is most probably a misspelling, and tells why the configuration is no help;
// "" where there is nothing to say.
func (d directory) hint(target string, words ...string) (hint string) {
	for _, n := range d.noted {
		words = append(words, n.Tenant+"/"+n.Name)
	}
	for _, s := range d.configured {
		words = append(words, s.Tenant+"/"+s.Name)
	}
	if near := strictyaml.Nearest(target, words); near != "" {
		hint = fmt.Sprintf(" (did you mean %s?)", line(near))
	}
	if d.fault != nil {
		hint += fmt.Sprintf(" (the configured destinations are not all known: %v)", d.fault)
	}
	return hint
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
