package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"outflow/internal/config"
)

// Exit codes.
const (
	exitFailed = 1 // something failed, or was found
	exitUsage  = 2 // the command line or the configuration is wrong
)

// usageError is a fault of the command line; one of the configuration is a [config.Fault].
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Main is the whole process: the command line of os.Args, until it is done or a signal ends it. The result is the exit code.
func Main(version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return Execute(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
}

// Execute runs one command line and returns the exit code. What the command writes comes to stdout and stderr with control characters shown
// as text; what the command logs goes to the process' own stderr.
func Execute(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	out, errOut := &screen{stdout}, &screen{stderr}
	root := newRoot(version)
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(errOut, "outflow:", err)
	}
	return codeOf(err)
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
		Short: "Keep a live copy of each tenant's rows in the tenant's own Postgres",
		Long: `Outflow reads one logical replication slot on a multi-tenant Postgres, gives every committed transaction a sequence
id from its position in the WAL, and applies SQL mappings in each tenant's own database: exactly once in effect, in the
primary's commit order.

Exit codes: 0 done, 1 failed or found something, 2 usage or configuration.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newRun(version), newStatus(version), newCheck(), newPause(true), newPause(false), newRetry(), newResync(), newVerify(),
		newDemo(version), newInit(), newMapping(), newConfig(), newHealthcheck(), newVersion(version), newBench(version))
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
