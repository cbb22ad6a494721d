package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted is the text shown in the place of a secret.
const Redacted = "[redacted]"

// Text is a secret. However printed or marshalled, a Text is Redacted; only
// Reveal gives the text. The zero value is the empty secret. Redaction does not
// tell an empty secret from another secret.
//
// The text is behind a pointer, so even reflection on an unexported field of
// type Text prints an address and not the secret.
type Text struct{ text *string }

// New makes a secret of text.
func New(text string) Text {
	if text == "" {
		return Text{}
	}
	return Text{&text}
}

// Reveal returns the secret itself, "" for the zero value. Each use needs a reason.
func (t Text) Reveal() string {
	if t.text == nil {
		return ""
	}
	return *t.text
}

// IsZero reports whether the secret is empty.
func (t Text) IsZero() bool { return t.text == nil }

// Equal compares two secrets. The time depends on the secrets: Equal is for
// noticing a change of configuration, not for checking a token.
func (t Text) Equal(other Text) bool { return t.Reveal() == other.Reveal() }

// String gives Redacted.
func (Text) String() string { return Redacted }

// GoString gives Redacted, for %#v.
func (Text) GoString() string { return Redacted }

// Format writes Redacted for every verb.
func (Text) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, Redacted) }

// MarshalJSON gives Redacted as a JSON string.
func (Text) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// MarshalText gives Redacted.
func (Text) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalYAML gives Redacted.
func (Text) MarshalYAML() (any, error) { return Redacted, nil }

// LogValue gives Redacted to log/slog. zap calls String or MarshalJSON.
func (Text) LogValue() slog.Value { return slog.StringValue(Redacted) }

// UnmarshalText takes text as the secret; UnmarshalText does not fail.
func (t *Text) UnmarshalText(text []byte) error {
	*t = New(string(text))
	return nil
}
