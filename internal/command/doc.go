// Package command is the command line of outflow: one file a command, with flags, output and exit codes. A command parses flags, calls the package
// that does the work, and prints.
//
// cmd/outflow holds nothing but main. The commands are importable so that the end-to-end tests run commands inside the test's process, and let the
// test binary stand in for outflow as a process; go test then also knows that a changed command makes the end-to-end tests run again.
//
// # Exit codes
//
//	0  done
//	1  something failed, or was found
//	2  the command line or the configuration is wrong; of outflow verify: a destination could not be compared
//
// A fault of the command line is a usageError; a fault of the configuration is a [outflow/internal/config.Fault].
//
// # Output
//
// Names, values and errors come from tenants, from tenants' servers and from any peer at admin.listen. All output of a command passes a screen, which
// shows control characters as text. Only progress at a terminal has control sequences, with nothing but numbers in between. The log goes to stderr,
// with texts cut to a bound.
package command
