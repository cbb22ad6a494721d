package tenantdsn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var strict = Policy{MinSSLMode: "verify-full", Ports: []uint16{5432, 6432}}

const good = "postgres://u:p@db.example.com/app"

func class(err error) string {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Class()
	}
	return fmt.Sprintf("%T: %v", err, err)
}

func TestAddresses(t *testing.T) {
	blocked := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1",
		"172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
		"203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:1ff::1", "2001:db8::1", "2002:7f00:1::",
		"3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
	}
	open := []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
		"198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "2003::1",
	}
	check := func(p Policy, ip string) error {
		network := "tcp6"
		if a := netip.MustParseAddr(ip); a.Is4() || a.Is4In6() {
			network = "tcp4"
		}
		return p.CheckAddress(network, netip.AddrPortFrom(netip.MustParseAddr(ip), 5432).String())
	}
	for _, ip := range blocked {
		if got := class(check(strict, ip)); got != "blocked" {
			t.Errorf("%s: %s", ip, got)
		}
	}
	for _, ip := range open {
		if err := check(strict, ip); err != nil {
			t.Errorf("%s: %v", ip, err)
		}
	}
	private := Policy{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	if check(private, "10.1.2.3") != nil || check(private, "::ffff:10.1.2.3") != nil || check(private, "10.2.0.1") == nil {
		t.Error("allow_networks opens more or less than it says")
	}
	for _, c := range [][2]string{{"unix", "/tmp/x"}, {"tcp", "8.8.8.8:5432"}, {"udp4", "8.8.8.8:5432"}, {"tcp4", "8.8.8.8:22"}, {"tcp4", "nonsense"}} {
		if got := class(strict.CheckAddress(c[0], c[1])); got != "blocked" {
			t.Errorf("%v: %s", c, got)
		}
	}
}

func TestStrings(t *testing.T) {
	long := strings.Repeat("x", 4096)
	for _, c := range []struct{ dsn, class, text string }{
		{good, "", ""},
		{"host=db.example.com user=u password='it''s' dbname=app", "configuration", ""},
		{`host=db.example.com user=u password='it\'s' dbname=app port=6432`, "", ""},
		{"postgresql://u@[2606:4700::1111]:5432/app?sslmode=verify-full", "", ""},
		{"postgres://u@h/d?host=other", "configuration", "host appears twice"},
		{"host=h host=h user=u dbname=d", "configuration", "host appears twice"},
		{"", "configuration", "empty"}, {"   ", "configuration", "empty"}, {good + "?password=" + long, "configuration", "longer than 4096"},
		{"mysql://u@h/d", "configuration", "expected postgres://"},
		{"postgres://u@/d", "configuration", "host is missing"}, {"postgres://h/d", "configuration", "user is missing"}, {"postgres://u@h", "configuration", "dbname is missing"},
		{"host=/tmp user=u dbname=d", "configuration", "host: expected one name"}, {"postgres://u@%2Ftmp/d", "configuration", ""},
		{"host=a,b user=u dbname=d", "configuration", "host: expected one name"}, {"postgres://u@a,b/d", "configuration", ""}, {"postgres://u@a:1,b:2/d", "configuration", ""},
		{"host=@abstract user=u dbname=d", "configuration", "host:"}, {"host='a b' user=u dbname=d", "configuration", "host:"}, {"host=a\x00 user=u dbname=d", "configuration", "not text"},
		{"host=fe80::1%eth0 user=u dbname=d", "configuration", "zone"}, {"host=C:\\\\x user=u dbname=d", "configuration", "host:"},
		{"host=h port=5432,5433 user=u dbname=d", "configuration", "port:"}, {"host=h port=0 user=u dbname=d", "configuration", "port:"},
		{"postgres://u@h:22/d", "blocked", "port 22 is not allowed; allowed are 5432, 6432"},
		{good + "?sslmode=Require", "configuration", "sslmode: expected one of"}, {good + "?sslmode=", "", ""},
		{good + "?sslmode=require&sslmode=verify-full", "configuration", "sslmode appears twice"}, {good + "?supa=a&supa=b", "configuration", "supa appears twice"},
		{good + "?sslrootcert=/etc/passwd", "configuration", `"sslrootcert" is not allowed; allowed are host, port, user, password, dbname, sslmode`},
		{good + "?sslcert=/x", "configuration", `"sslcert"`}, {good + "?service=x", "configuration", `"service"`}, {good + "?passfile=/x", "configuration", `"passfile"`},
		{good + "?hostaddr=10.0.0.1", "configuration", `"hostaddr"`}, {good + "?search_path=x", "configuration", `"search_path"`},
		{good + "?sslkey=/x", "configuration", `"sslkey"`}, {good + "?target_session_attrs=read-write", "configuration", `"target_session_attrs"`},
		{good + "?SSLMODE=disable", "configuration", `"..." is not allowed`}, {good + "?gssencmode=require", "configuration", `"gssencmode"`},
		{"host=h user=u dbname=d servicefile=/x", "configuration", `"servicefile"`}, {"host=h user=u dbname=d krbsrvname=x", "configuration", `"krbsrvname"`},
		{"host=h user=u dbname=d password=can ary=x", "configuration", `"ary"`}, {"host=h user=u dbname=d password=x C4nary-=x", "configuration", `"..." is not allowed`},
		{"postgres://u:can#ary@h/d", "configuration", "escaped as %XX"},
	} {
		_, err := Parse(c.dsn, "", strict, time.Second)
		switch {
		case c.class == "" && err != nil:
			t.Errorf("%.80q: %v", c.dsn, err)
		case c.class != "" && (err == nil || class(err) != c.class || !strings.Contains(err.Error(), c.text)):
			t.Errorf("%.80q: %v, expected %s: %s", c.dsn, err, c.class, c.text)
		}
	}
	if _, err := Parse(good, "no pem", strict, time.Second); class(err) != "configuration" {
		t.Errorf("a CA that is none: %v", err)
	}
}

// Nothing of the environment, of the home directory or of a file is in what is made of a tenant's string.
func TestNothingIsInherited(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".postgresql"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		".pgpass": "*:*:*:*:c4nary", ".postgresql/root.crt": "c4nary", ".postgresql/postgresql.crt": "c4nary", ".postgresql/postgresql.key": "c4nary",
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	for name, value := range map[string]string{
		"PGPASSWORD": "c4nary", "PGUSER": "c4nary", "PGHOST": "c4nary", "PGDATABASE": "c4nary", "PGPASSFILE": filepath.Join(home, ".pgpass"),
		"PGSSLROOTCERT": "/c4nary", "PGSSLCERT": "/c4nary", "PGSSLKEY": "/c4nary", "PGOPTIONS": "-c c4nary=1", "PGAPPNAME": "c4nary",
		"PGTARGETSESSIONATTRS": "read-write", "PGSSLMODE": "verify-full", "PGREQUIREAUTH": "none", "PGTZ": "c4nary",
	} {
		t.Setenv(name, value)
	}
	c, err := Parse("postgres://u@db.example.com/app", "", strict, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v %+v", *c, c.TLSConfig); strings.Contains(got, "c4nary") {
		t.Errorf("the configuration has something of the environment: %s", got)
	}
	if c.Password != "" || c.Fallbacks != nil || c.ValidateConnect != nil || c.ConnectTimeout != 3*time.Second || c.MaxProtocolMessageBodyLen == 0 ||
		c.SSLCertMode != "disable" || c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify || c.TLSConfig.RootCAs != nil || c.RequireAuth != "" {
		t.Errorf("%+v", *c)
	}
	if want := map[string]string{"application_name": "outflow", "client_encoding": "UTF8"}; !reflect.DeepEqual(c.RuntimeParams, want) {
		t.Errorf("start-up parameters %v", c.RuntimeParams)
	}
	// The check is the dialer's, so also that of a cancel request; and what it refuses is not dialled.
	_, err = c.DialFunc(context.Background(), "tcp", "127.0.0.1:5432")
	if got := class(err); got != "blocked" {
		t.Errorf("dialling loopback: %s", got)
	}
}
