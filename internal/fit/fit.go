package fit

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Place is where a text goes: the greatest number of bytes that the place takes.
type Place int

// The places of texts.
const (
	Value  Place = 64      // a value in a sentence: of a key, of a configuration
	Name   Place = 200     // the name of a destination; the name of a person
	Reason Place = 512     // the reason of an error, of a state, a request, a switch
	Page   Place = 1024    // a message of the status API
	Tenant Place = 1024    // the text form of a tenant column
	Log    Place = 8 << 10 // a field of the log
)

// cutMark ends a text that was cut. ASCII, so that a database of any encoding takes the mark.
const cutMark = "..."

// Text returns s for a place: one line of valid UTF-8, without control characters and without characters that reverse the direction of
// writing, cut between two characters. A fit text is returned as is.
func Text(s string, p Place) string {
	if len(s) > 2*int(p) { // the rest is cut anyway, and may be long
		s = strings.ToValidUTF8(s[:2*int(p)], "?")
	}
	return Cut(oneLine(s), p)
}

// Cut returns at most p bytes of s, and cuts between two characters. A cut text ends with three dots. Cut changes nothing else.
func Cut(s string, p Place) string {
	if len(s) <= int(p) {
		return s
	}
	end := max(int(p)-len(cutMark), 0)
	for from := end; end > 0 && from-end < utf8.UTFMax && !utf8.RuneStart(s[end]); {
		end--
	}
	return s[:end] + cutMark[:min(len(cutMark), int(p))]
}

// oneLine puts a blank in the place of each character that does not belong in a line, and a question mark in the place of bytes that are no
// characters.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// IsControl reports whether a character has an effect on a terminal or a page instead of a form: the Unicode standard, chapter 23.
func IsControl(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
}

// Encoded returns s for a database with the given server_encoding, whose clients send UTF-8. Characters that the encoding may lack are
// escaped as \u65e5, and \ud83d\ude00 beyond the basic plane, which JSON reads as the same characters: the server ends a whole statement
// at a character without a form in the encoding (22P05; the Postgres manual, 23.3). A database of SQL_ASCII takes any bytes.
func Encoded(s, encoding string) string {
	last := unicode.MaxASCII
	switch encoding {
	case "UTF8", "SQL_ASCII":
		return s
	case "LATIN1":
		last = unicode.MaxLatin1
	}
	if strings.IndexFunc(s, func(r rune) bool { return int(r) > int(last) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case int(r) <= int(last):
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// Check refuses a name that cannot be used as is: a name is an identity, and a changed name would be another name. The error names the fault
// and shows the name as far as the name can be shown.
func Check(name string, p Place) error {
	fault := ""
	switch {
	case len(name) > int(p):
		fault = fmt.Sprintf("is longer than %d bytes", int(p))
	case !utf8.ValidString(name):
		fault = "is not valid UTF-8"
	case strings.IndexFunc(name, IsControl) >= 0:
		fault = "has a control character"
	default:
		return nil
	}
	return fmt.Errorf("%q %s", Text(name, Value), fault)
}
