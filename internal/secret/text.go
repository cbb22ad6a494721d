package secret

import (
	"net/url"
	"regexp"
	"strings"
)

// RedactURL masks the password, the values of the query and the fragment of a URL of any scheme. A URL without such parts stays unchanged; an
// unreadable text is Redacted as a whole.
func RedactURL(text string) string {
	if !strings.ContainsAny(text, "@?#") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Host == "" || strings.Contains(u.Host+u.Path+u.RawQuery, "@") || u.Fragment != "" {
		return Redacted
	}
	if _, ok := u.User.Password(); ok {
		u.User = url.UserPassword(u.User.Username(), masked)
	} else if u.User != nil {
		u.User = url.User(masked) // a token stands there alone
	}
	if u.RawQuery != "" {
		pairs := strings.Split(u.RawQuery, "&")
		for i, pair := range pairs {
			key, _, ok := strings.Cut(pair, "=")
			if pairs[i] = key + "=" + masked; !ok { // a secret may stand there alone
				pairs[i] = masked
			}
		}
		u.RawQuery = strings.Join(pairs, "&")
	}
	return u.String()
}

var (
	userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#:@]*):(\S*@)`)
	port     = regexp.MustCompile(`^[0-9]+/`)
	password = regexp.MustCompile(`(?i)\b((?:password|passwd|pwd|secret|token|api_?key)\s*=\s*)('(?:[^'\\]|\\.)*'|"[^"]*"|[^\s'"&;,)]+)`)
)

// Mask masks the likely passwords of a text: in a URL, and in key = value. Mask is the second line of
// defence, for texts that should have no secret.
func Mask(text string) string {
	text = userinfo.ReplaceAllStringFunc(text, func(found string) string {
		parts := userinfo.FindStringSubmatch(found)
		if at := len(port.FindString(parts[2])); at > 0 { // a URL without a password, and an @ behind it
			return parts[1] + ":" + parts[2][:at] + Mask(parts[2][at:])
		}
		return parts[1] + ":" + masked + "@"
	})
	return password.ReplaceAllString(text, "${1}"+masked)
}
