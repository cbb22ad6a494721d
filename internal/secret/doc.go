// Package secret keeps text out of logs, errors, API answers and dumps of structs: connection strings, passwords and tokens.
//
// # What the package guarantees
//
//   - A [Text] prints as [Redacted], whatever prints the Text: every verb of fmt, encoding/json, YAML, log/slog, zap, or reflection on a
//     struct with a Text in an unexported field. Only Reveal returns the secret, so a search for Reveal finds every use.
//   - [RedactDSN] and [RedactURL] show only values that cannot be secret, and hide the whole text if they cannot read it with certainty. A
//     connection string with an unescaped "@" or "/" in the password is such a text.
//   - [Mask] finds likely passwords in any other text. Mask may miss a password, so Mask is the second line of defence only.
//
// Everything here is a value or a pure function and safe for concurrent use. The secret stays in memory in the clear: a person who can
// read the process' memory can read the secret (SECURITY.md).
//
// # Rejected
//
//   - A string type with methods (type Text string): reflection, and fmt on a struct with an unexported field, print the string without
//     calling the methods. The pointer inside Text prints as an address.
//   - Overwriting secrets in memory after use: pgx, net/http and the garbage collector hold copies that no code here can reach.
//   - A list of fields that the log masks: a new field would be shown until the list has the field.
package secret
