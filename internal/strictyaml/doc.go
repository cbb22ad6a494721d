// Package strictyaml decodes one YAML document into a struct and refuses
// everything unknown.
//
// Every fault carries file, line and column and names the allowed values, and
// all faults of a document are reported at once. The Document returned by
// Decode remembers the place of each value, so a later check of meaning can
// point at the place too.
//
// Refused, with the reason in the message: unknown and duplicate keys, several
// documents, anchors and aliases (a few bytes of aliases can stand for
// gigabytes), tags, text other than UTF-8, and anything deeper or larger than
// MaxDepth and MaxBytes.
//
// A scalar is text, and the field decoded into decides how the text is read:
// `tenant: 42` gives the string "42", and `rows: "10"` the integer 10. Only a
// missing value and a bare null are not text.
package strictyaml
