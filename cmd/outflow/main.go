// Command outflow keeps each tenant's rows in that tenant's own Postgres, live.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"outflow/internal/config"
	"outflow/internal/fit"
	"outflow/internal/secret"
)

// version is set when the program is built: -ldflags "-X main.version=...".
var version = "dev"

// Exit codes.
const (
	exitFailed = 1 // something failed, or was found
	exitUsage  = 2 // the command line or the configuration is wrong
)

// usageError is a fault of the command line; one of the configuration is a [config.Fault].
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := newRoot(version).ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(&screen{os.Stderr}, "outflow:", err)
	os.Exit(codeOf(err))
}

// codeOf is the process' exit code after a command.
func codeOf(err error) int {
	switch usage := (usageError{}); {
	case err == nil:
		return 0
	case errors.As(err, &usage), config.IsFault(err):
		return exitUsage
	}
	return exitFailed
}

func newRoot(version string) *cobra.Command {
	root := &cobra.Command{
		Use:   "outflow",
		Short: "Keep each tenant's rows in that tenant's own Postgres, live",
		Long: `Outflow reads one logical-replication slot on a multi-tenant Postgres, gives every committed transaction a sequence
id from its place in the WAL, and applies SQL mappings in each tenant's own database: exactly once in effect, in the
order of the source's transactions.

Exit codes: 0 done, 1 failed or found something, 2 usage or configuration.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(&screen{os.Stdout})
	root.SetErr(&screen{os.Stderr})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newRun(version), newStatus(version), newCheck(), newPause(true), newPause(false), newRetry(), newResync(), newVerify(), newDemo(version), newInit(), newMapping(),
		newConfig(), newHealthcheck(), newVersion(version), newBench(version))
	strictArgs(root)
	return root
}

// strictArgs makes wrong arguments a usage error everywhere.
func strictArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		strictArgs(sub)
	}
}

// checkOutput refuses a value of -o that is neither text nor json.
func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usageError{fmt.Errorf("-o %s: expected text or json", output)}
	}
	return nil
}

func newVersion(version string) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), version) }}
}

// settings are the flags that all commands with a configuration have.
type settings struct {
	file    string
	set     []string
	environ []string // the environment before load scrubbed it
}

func (s *settings) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.file, "config", "c", os.Getenv("OUTFLOW_CONFIG"), "configuration file (also $OUTFLOW_CONFIG)")
	c.Flags().StringArrayVar(&s.set, "set", nil, "one setting, as in --set sink.batch_rows=1000; wins over environment and file")
}

// load reads the configuration and then removes from the process the variables that tenants' connections must not inherit.
// load may be called again: files are read again.
func (s *settings) load() (*config.Config, error) {
	flags := map[string]string{}
	for _, kv := range s.set {
		key, value, ok := cut(kv)
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

func newLogger(l config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(l.Level)
	if err != nil {
		return nil, usageError{err}
	}
	c, encoder := zap.NewProductionEncoderConfig(), zapcore.NewJSONEncoder
	if l.Format == "console" {
		c, encoder = zap.NewDevelopmentEncoderConfig(), zapcore.NewConsoleEncoder
	}
	c.TimeKey, c.EncodeTime, c.EncodeDuration = "ts", zapcore.RFC3339NanoTimeEncoder, zapcore.MillisDurationEncoder
	out := zapcore.Lock(zapcore.AddSync(&screen{os.Stderr}))
	return zap.New(bounded(zapcore.NewCore(encoder(c), out, level)), zap.ErrorOutput(out)), nil
}
