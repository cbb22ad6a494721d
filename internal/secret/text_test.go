package secret

import (
	"net/url"
	"strings"
	"testing"
)

func TestRedactURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://collector:4318/v1/traces":              "http://collector:4318/v1/traces",
		"https://u:canary@collector:4318/v1/traces":    "https://u:xxxxx@collector:4318/v1/traces",
		"https://canary@collector/v1/traces":           "https://xxxxx@collector/v1/traces",
		"https://collector/v1/traces?key=canary&b=can": "https://collector/v1/traces?key=xxxxx&b=xxxxx",
		"https://collector/v1/traces?canary":           "https://collector/v1/traces?xxxxx",
		"https://u:can/ary@collector/":                 Redacted,
		"https://u:ca#nary@collector/":                 Redacted,
		"u:canary@collector":                           Redacted,
		"https://u:?canary@collector/":                 Redacted,
	} {
		if got := RedactURL(text); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestMask(t *testing.T) {
	for text, want := range map[string]string{
		"SELECT tenant, 'postgres://u:canary@h/db' AS dsn": "SELECT tenant, 'postgres://u:xxxxx@h/db' AS dsn",
		"SELECT 'host=h password=canary dbname=d'":         "SELECT 'host=h password=xxxxx dbname=d'",
		"host=h password='can ary' x":                      "host=h password=xxxxx x",
		"SELECT tenant_id, name FROM d WHERE enabled":      "SELECT tenant_id, name FROM d WHERE enabled",
		"http://collector:4318/a@b":                        "http://collector:4318/a@b",
		"postgres://u:can/ary@h/db":                        "postgres://u:xxxxx@h/db",
		"http://c:4318/a,postgres://u:can/ary@h":           "http://c:4318/a,postgres://u:xxxxx@h",
	} {
		if got := Mask(text); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// FuzzRedactURL: no password of a URL that can be read is shown.
func FuzzRedactURL(f *testing.F) {
	f.Add("http", "u", "canary-1", "h:1", "q=canary-1")
	f.Add("https", "", "ca/n:a@ry", "h", "")
	f.Fuzz(func(t *testing.T, scheme, user, word, host, query string) {
		if len(word) < 6 || strings.Contains(scheme+user+host+query+masked+Redacted, word) {
			t.Skip()
		}
		for _, text := range []string{scheme + "://" + user + ":" + word + "@" + host + "/?" + query,
			(&url.URL{Scheme: scheme, User: url.UserPassword(user, word), Host: host, RawQuery: query}).String()} {
			if got := RedactURL(text); strings.Contains(got, word) && strings.Contains(text, "@") {
				t.Errorf("%q is shown as %q", text, got)
			}
		}
	})
}
