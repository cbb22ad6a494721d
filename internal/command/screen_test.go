package command

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScreen(t *testing.T) {
	var b strings.Builder
	s := &screen{w: &b}
	const text = "a\x1b[31mb\u009b1mc\x7f\r\u202ed\ne\tf\xffé😀"
	if n, err := s.Write([]byte(text)); n != len(text) || err != nil {
		t.Error(n, err)
	}
	if want := `a\u001b[31mb\u009b1mc\u007f\u000d\u202ed` + "\ne\tf\ufffdé😀"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}

// FuzzScreen: a terminal obeys nothing of what is printed, and a text within JSON stays the same text.
func FuzzScreen(f *testing.F) {
	f.Add("a\x1b[31m\u009b\u202e\r\n\x00é")
	f.Add("\xff\xc2")
	f.Fuzz(func(t *testing.T, text string) {
		var b strings.Builder
		if err := json.NewEncoder(&screen{w: &b}).Encode(text); err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexFunc(b.String(), obeyed); i >= 0 || !utf8.ValidString(b.String()) {
			t.Errorf("%q", b.String())
		}
		var back string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != strings.ToValidUTF8(text, "\ufffd") && utf8.ValidString(text) {
			t.Errorf("%q became %q: %v", text, back, err)
		}
	})
}
