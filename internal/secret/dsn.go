package secret

import (
	"net/url"
	"slices"
	"strings"
)

// shown are the settings of a connection string which an operator may read in a
// log; the values of all others are masked.
var shown = []string{"host", "hostaddr", "port", "user", "dbname", "sslmode"}

// masked stands for a hidden value. Five letters whatever the value is: the length of a password is a part of the secret.
const masked = "xxxxx"

// RedactDSN shows host, port, user, database and sslmode of a connection string, a URL or keyword/value pairs (the Postgres manual, 34.1.1),
// and masks all other values, unknown ones included: a misspelled password= must not show the password. A string that RedactDSN cannot
// read with certainty is [Redacted] as a whole. "" stays "".
func RedactDSN(dsn string) string {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		return redactURL(dsn)
	}
	if strings.Contains(dsn, "://") {
		return Redacted
	}
	return redactKeywords(dsn)
}

// redactURL masks by the parts that net/url finds, and hides the whole URL if a password may have spilled into another part.
func redactURL(dsn string) string {
	u, err := url.Parse(dsn)
	// A "@" not escaped in a password ends up in the host or the path, and a
	// "/" makes the password's rest a path. So does "#" a fragment.
	if err != nil || u.Opaque != "" || strings.ContainsAny(u.Host+u.Path+u.RawQuery, "@") ||
		strings.Contains(dsn, "#") || strings.Contains(strings.TrimPrefix(u.Path, "/"), "/") {
		return Redacted
	}
	var out strings.Builder
	out.WriteString(u.Scheme + "://")
	if u.User != nil {
		out.WriteString(url.User(u.User.Username()).String())
		if _, ok := u.User.Password(); ok {
			out.WriteString(":" + masked)
		}
		out.WriteByte('@')
	}
	out.WriteString(u.Host + u.EscapedPath())
	separator := byte('?')
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			if pair != "" {
				return Redacted
			}
			continue
		}
		if !slices.Contains(shown, key) {
			value = masked
		}
		out.WriteByte(separator)
		out.WriteString(key + "=" + value)
		separator = '&'
	}
	return out.String()
}

// redactKeywords reads keyword = value pairs as libpq does (the Postgres manual, 34.1.1.1): a value is a word or quoted with ', and \ takes
// the next character literally.
func redactKeywords(dsn string) string {
	var out []string
	for rest := strings.TrimLeft(dsn, space); rest != ""; rest = strings.TrimLeft(rest, space) {
		key, after, ok := strings.Cut(rest, "=")
		key = strings.TrimRight(key, space)
		if !ok || !word(key) {
			return Redacted
		}
		value, remaining, ok := keywordValue(strings.TrimLeft(after, space))
		if !ok {
			return Redacted
		}
		if !slices.Contains(shown, key) {
			value = masked
		}
		out = append(out, key+"="+value)
		rest = remaining
	}
	return strings.Join(out, " ")
}

// space are the characters that separate pairs: those of isspace in libpq's conninfo_parse.
const space = " \t\r\n\v\f"

// word reports whether key can be a setting's name. Any other text may be a part of an unquoted password.
func word(key string) bool {
	for _, r := range key {
		if r != '_' && (r < 'a' || r > 'z') {
			return false
		}
	}
	return key != ""
}

// keywordValue cuts a value, as written, off text, and returns the rest of text. ok is false if a quote is not closed, or if text follows
// directly after the closing quote.
func keywordValue(text string) (value, rest string, ok bool) {
	quoted := strings.HasPrefix(text, "'")
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\':
			i++
		case quoted && i > 0 && text[i] == '\'':
			return text[:i+1], text[i+1:], i+1 == len(text) || strings.IndexByte(space, text[i+1]) >= 0
		case !quoted && strings.IndexByte(space, text[i]) >= 0:
			return text[:i], text[i:], true
		}
	}
	return text, "", !quoted
}
