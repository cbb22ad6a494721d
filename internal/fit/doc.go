// Package fit makes a foreign text fit for the place that takes the text: a statement, a log line, a note on the primary, a page.
//
// Foreign texts come from tenants, from tenants' servers, from keys of rows, and from configurations. A text with a NUL, half a character or a
// million bytes must not break a statement, a log line or a page that all destinations share. So every foreign text passes through this
// package where the text enters the program.
//
// # What the package guarantees
//
//   - [Text] returns one line of valid UTF-8, without control characters, of at most the bytes of a [Place]. A text that is fit already
//     comes back unchanged. Text never fails: a message about a broken value must itself be printable.
//   - [Cut] limits the length alone, between two characters.
//   - [Encoded] returns a text that a database of a given encoding takes, so that one character cannot end a statement for all tenants.
//   - [Check] refuses a name instead of changing the name: a changed name would name another destination.
//
// All functions are pure and safe for concurrent use.
//
// # Rejected
//
//   - Making texts fit where they leave (in the log, in SQL, in a template): a new exit would forget the rule.
//   - Escaping instead of replacing control characters: a cut in the middle of an escape is a new text, and the reason stays as unreadable.
//   - Limits in characters: Postgres, logs and HTTP count bytes.
package fit
