package secret

import (
	"net/url"
	"slices"
	"strings"
)

// shown are the settings of a connection string which an operator may read in a
// log; the values of all others are masked.
var shown = []string{"host", "hostaddr", "port", "user", "dbname", "sslmode"}

const masked = "xxxxx"

// RedactDSN shows host, port, user, database and sslmode of a connection
// string, a URL or keyword/value, and masks all other values. A string not
// readable for sure is Redacted as a whole.
func RedactDSN(dsn string) string {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		return redactURL(dsn)
	}
	if strings.Contains(dsn, "://") {
		return Redacted
	}
	return redactKeywords(dsn)
}

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

// redactKeywords reads keyword = value pairs as libpq does: a value is a word
// or quoted with ', and \ takes the next character literally.
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

const space = " \t\r\n\v\f"

// word tells whether key can be a setting's name. Anything else may be a part
// of an unquoted password.
func word(key string) bool {
	for _, r := range key {
		if r != '_' && (r < 'a' || r > 'z') {
			return false
		}
	}
	return key != ""
}

// keywordValue cuts a value, as written, off text. ok is false where a quote is
// not closed.
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
