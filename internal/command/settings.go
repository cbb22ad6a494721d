package command

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"outflow/internal/config"
	"outflow/internal/fit"
	"outflow/internal/secret"
)

// settings are the flags that all commands with a configuration have.
type settings struct {
	file    string
	set     []string
	environ []string // the environment before load scrubbed it
}

func (s *settings) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.file, "config", "c", os.Getenv("OUTFLOW_CONFIG"), "configuration file (also $OUTFLOW_CONFIG)")
	c.Flags().StringArrayVar(&s.set, "set", nil, "one setting, as in --set sink.batch_rows=1000; takes precedence over environment and file")
}

// load reads the configuration and then removes from the process the variables that tenants' connections must not inherit.
// load may be called again: files are read again.
func (s *settings) load() (*config.Config, error) {
	flags := map[string]string{}
	for _, kv := range s.set {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, usageError{fmt.Errorf("--set %s: expected path=value", fit.Text(secret.Mask(kv), fit.Value))}
		}
		flags[key] = value
	}
	if s.environ == nil {
		s.environ = os.Environ()
	}
	cfg, err := config.Load(config.LoadOptions{File: s.file, Flags: flags, Env: s.lookup, Environ: func() []string { return s.environ }})
	if err != nil {
		return nil, err
	}
	config.Scrub()
	return cfg, nil
}

func (s *settings) lookup(name string) (string, bool) {
	for _, entry := range s.environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value, true
		}
	}
	return "", false
}
