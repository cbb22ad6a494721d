// Package strictyaml decodes one YAML document into a struct and refuses everything unknown.
//
// # What the package guarantees
//
//   - Every fault has file, line and column and names the allowed values, and all faults of a document are reported at once
//     (at most maxFaults, so that a hostile document does not fill the answer).
//   - The [Document] that [Decode] returns remembers the place of each value, so a later check of meaning can name the place too.
//   - Refused, with the reason in the message: unknown and duplicate keys, several documents, anchors and aliases (a few bytes of aliases
//     can stand for gigabytes), tags, text other than UTF-8, and anything deeper or larger than MaxDepth and MaxBytes.
//   - A scalar is text, and the field decides how the text is read: `tenant: 42` gives the string "42", and `rows: "10"` the integer 10.
//     Only a missing value and a bare null are not text.
//   - Options (options.go): a field's tag holds key, default and range, and the package applies and checks them.
//
// Decode and the functions on options keep no state and are safe for concurrent use; a Document does not change after Decode.
//
// # Rejected
//
//   - The strict mode of a YAML library: it stops at the first fault, and has no places for checks that come later.
//   - YAML's own types: `no` is false, `1e3` is a number and `2026-01-01` a time, whatever the field wants.
//   - JSON or TOML: operators and tenants write SQL over several lines in the document, which needs block scalars.
package strictyaml
