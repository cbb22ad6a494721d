// Package strictyaml decodes one YAML document into a struct and refuses
// everything that it does not know.
//
// Every fault carries file, line and column and says what is allowed, and all
// faults of a document are reported at once. The Document that Decode returns
// remembers where each value stood, so that a later check of meaning can point
// at it too.
//
// What is refused, with the reason in the message: unknown and duplicate keys,
// several documents, anchors and aliases (a few bytes of them can stand for
// gigabytes), tags, text that is not UTF-8, and anything deeper or larger than
// MaxDepth and MaxBytes.
//
// A scalar is text, and the field that it is decoded into says how that text is
// read: `tenant: 42` gives the string "42", and `rows: "10"` the integer 10.
// Only a missing value and a bare null are not text.
package strictyaml
