// Package command is the command line of outflow: one file a command, with its flags, its output and its exit codes. A command parses flags, calls a package
// that does the work, and prints. cmd/outflow holds nothing but main, so that the end-to-end tests run commands inside the process and as processes, and are
// run again when a command changes.
//
// # Exit codes
//
//	0  done
//	1  something failed, or was found
//	2  the command line or the configuration is wrong; of outflow verify: something could not be compared
//
// A fault of the command line is a usageError; a fault of the configuration is a [outflow/internal/config.Fault].
//
// # Output
//
// Names, values and errors come from tenants, from tenants' servers and from any peer at admin.listen. Everything that a command writes passes a screen, which shows
// control characters as text. Only progress at a terminal has control sequences, with nothing but numbers in between. The log goes to stderr, and
// its texts are cut.
package command
