package tenantdsn

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxDSN is the greatest number of bytes of a connection string.
	MaxDSN      = 4 << 10
	defaultPort = 5432
	// defaultSSLMode is the mode of a string which says nothing: a tenant who wants less says so, and gets less where the operator's
	// policy allows less.
	defaultSSLMode = "verify-full"
)

// settings are a connection string's values.
type settings map[string]string

func wrong(format string, args ...any) error {
	return &Error{class: classConfiguration, text: "the connection string: " + fmt.Sprintf(format, args...)}
}

// read takes a connection string apart: a URL, or keyword = value pairs. Each key is there once at most, also the keys without effect.
func read(dsn string) (settings, error) {
	switch {
	case strings.TrimSpace(dsn) == "":
		return nil, wrong("it is empty")
	case len(dsn) > MaxDSN:
		return nil, wrong("it is longer than %d bytes", MaxDSN)
	case strings.ContainsRune(dsn, 0), !utf8.ValidString(dsn):
		return nil, wrong("it is not text")
	case strings.HasPrefix(dsn, "postgres://"), strings.HasPrefix(dsn, "postgresql://"):
		return readURL(dsn)
	case strings.Contains(dsn, "://"):
		return nil, wrong("expected postgres://user:password@host:5432/database")
	}
	return readKeywords(dsn)
}

func (s settings) add(key, value string) error {
	if !allowed(key) {
		return wrong("%q is not allowed; allowed are %s", shortened(key), allowedKeys())
	}
	if _, twice := s[key]; twice {
		return wrong("%s appears twice", key)
	}
	s[key] = value
	return nil
}

// shortened is a key for a message. Text which is no word may be a part of an unescaped password.
func shortened(key string) string {
	for _, r := range key {
		if r != '_' && (r < 'a' || r > 'z') {
			return "..."
		}
	}
	return key[:min(len(key), 40)]
}

func readURL(dsn string) (settings, error) {
	u, err := url.Parse(dsn)
	if err != nil || u.Opaque != "" || u.Fragment != "" || strings.Contains(dsn, "#") {
		return nil, wrong("expected postgres://user:password@host:5432/database, with characters other than letters and digits escaped as %%XX")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, wrong("what follows ? is not key=value")
	}
	s := settings{}
	given := [][2]string{{"host", u.Hostname()}, {"port", u.Port()}, {"user", u.User.Username()}, {"dbname", strings.TrimPrefix(u.Path, "/")}}
	if password, ok := u.User.Password(); ok {
		given = append(given, [2]string{"password", password})
	}
	for key, values := range query {
		for _, value := range values {
			given = append(given, [2]string{key, value})
		}
	}
	for _, g := range given {
		if g[1] == "" && allowed(g[0]) {
			continue
		}
		if err := s.add(g[0], g[1]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

const space = " \t\r\n\v\f"

// readKeywords reads as libpq does: a value is a word or quoted with ', and \ takes the next character literally.
func readKeywords(dsn string) (settings, error) {
	s := settings{}
	for rest := strings.TrimLeft(dsn, space); rest != ""; rest = strings.TrimLeft(rest, space) {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			return nil, wrong("expected key = value pairs")
		}
		value, remaining, ok := readValue(strings.TrimLeft(after, space))
		if !ok {
			return nil, wrong("a quote is not closed")
		}
		if err := s.add(strings.TrimRight(key, space), value); err != nil {
			return nil, err
		}
		rest = remaining
	}
	return s, nil
}

func readValue(text string) (value, rest string, ok bool) {
	var out strings.Builder
	quoted := strings.HasPrefix(text, "'")
	i := 0
	if quoted {
		i++
	}
	for ; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
			out.WriteByte(text[i])
		case quoted && text[i] == '\'':
			return out.String(), text[i+1:], true
		case !quoted && strings.IndexByte(space, text[i]) >= 0:
			return out.String(), text[i:], true
		default:
			out.WriteByte(text[i])
		}
	}
	return out.String(), "", !quoted
}

// check checks the values other than those of encryption; the port is returned as a number.
func (s settings) check(p Policy) (port uint16, err error) {
	for _, key := range []string{"host", "user", "dbname"} {
		if s[key] == "" {
			return 0, wrong("%s is missing", key)
		}
	}
	host := s["host"]
	if _, err := netip.ParseAddr(host); err != nil && (strings.ContainsAny(host, "/,@%\x00:\\") || strings.ContainsAny(host, space)) {
		return 0, wrong("host: expected one name or address")
	}
	if strings.Contains(host, "%") {
		return 0, wrong("host: an address with a zone is not allowed")
	}
	if len(host) > 253 {
		return 0, wrong("host: longer than a host name may be")
	}
	port = defaultPort
	if text, given := s["port"]; given {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return 0, wrong("port: expected one number from 1 to 65535")
		}
		port = uint16(n)
	}
	if err := p.checkPort(port); err != nil {
		return 0, err
	}
	return port, s.checkOptions()
}
