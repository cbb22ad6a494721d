package config

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/secret"
)

// variables are libpq's environment variables, as far as known to pgx, and
// their keys in a connection string.
var variables = []struct{ name, key string }{
	{"PGHOST", "host"}, {"PGPORT", "port"}, {"PGDATABASE", "dbname"}, {"PGUSER", "user"}, {"PGPASSWORD", "password"},
	{"PGPASSFILE", "passfile"}, {"PGSERVICE", "service"}, {"PGSERVICEFILE", "servicefile"}, {"PGAPPNAME", "application_name"},
	{"PGCONNECT_TIMEOUT", "connect_timeout"}, {"PGSSLMODE", "sslmode"}, {"PGSSLKEY", "sslkey"}, {"PGSSLCERT", "sslcert"},
	{"PGSSLCERTMODE", "sslcertmode"}, {"PGSSLSNI", "sslsni"}, {"PGSSLROOTCERT", "sslrootcert"},
	{"PGSSLPASSWORD", "sslpassword"}, {"PGSSLNEGOTIATION", "sslnegotiation"},
	{"PGTARGETSESSIONATTRS", "target_session_attrs"}, {"PGOPTIONS", "options"}, {"PGTZ", "timezone"},
	{"PGMINPROTOCOLVERSION", "min_protocol_version"}, {"PGMAXPROTOCOLVERSION", "max_protocol_version"},
	{"PGCHANNELBINDING", "channel_binding"}, {"PGREQUIREAUTH", "require_auth"},
}

// homeFiles are the settings a connection string takes from the home directory.
// The certificate counts only together with the key.
var homeFiles = []struct {
	key, path, with string
}{
	{"passfile", ".pgpass", ""}, {"servicefile", ".pg_service.conf", ""}, {"sslrootcert", ".postgresql/root.crt", ""},
	{"sslcert", ".postgresql/postgresql.crt", ".postgresql/postgresql.key"},
	{"sslkey", ".postgresql/postgresql.key", ".postgresql/postgresql.crt"},
}

type keyValue struct{ key, value string }

// readAmbientDSN takes the source's connection string from the variables used
// by other programs too; the variables are the default of source.dsn.
func (l *loader) readAmbientDSN() {
	c := l.config
	if _, ok := c.origins["source.dsn"]; ok || c.doc.Has("source.dsn") {
		return
	}
	name := "DATABASE_URL"
	value, ok := l.Env(name)
	if !ok || value == "" {
		name = "DATABASE_URL_FILE"
		value, ok = l.secretFile(name)
	}
	if ok && value != "" {
		c.Source.DSN = secret.New(value)
		c.origins["source.dsn"] = origin{"environment variable " + name, "environment " + name}
		return
	}
	var names []string
	for _, v := range variables {
		if value, ok := l.Env(v.name); ok && value != "" {
			names = append(names, v.name)
		}
	}
	// A PGPASSWORD alone does not mean a database.
	for _, enough := range []string{"PGHOST", "PGDATABASE", "PGUSER", "PGSERVICE"} {
		if value, ok := l.Env(enough); ok && value != "" {
			all := strings.Join(names, ", ")
			l.fromPG = true
			c.origins["source.dsn"] = origin{"environment variables " + all, "environment " + all}
			return
		}
	}
}

// completeDSN makes explicit the settings added to the source's connection
// string by PG* variables and the home directory. Such settings take precedence
// over a service file.
func (l *loader) completeDSN() {
	var extra []keyValue
	given := make(map[string]bool)
	for _, v := range variables {
		if value, ok := l.Env(v.name); ok && value != "" {
			extra = append(extra, keyValue{v.key, value})
			given[v.key] = true
		}
	}
	if home, ok := l.Env("HOME"); ok && home != "" {
		for _, f := range homeFiles {
			if path := filepath.Join(home, f.path); !given[f.key] && exists(path) && exists(filepath.Join(home, f.with)) {
				extra = append(extra, keyValue{f.key, path})
			}
		}
	}
	if c := l.config; len(extra) > 0 && (l.fromPG || !c.Source.DSN.IsZero()) {
		c.Source.DSN = secret.New(extendDSN(c.Source.DSN.Reveal(), extra))
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// extendDSN adds missing settings to a connection string.
func extendDSN(dsn string, extra []keyValue) string {
	if isURL(dsn) {
		return extendURL(dsn, extra)
	}
	var out strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, e := range extra {
		out.WriteString(e.key + "='" + quote.Replace(e.value) + "' ")
	}
	// Of a key given twice, the later value counts.
	return strings.TrimSpace(out.String() + dsn)
}

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

func extendURL(dsn string, extra []keyValue) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn // several hosts with ports, which net/url does not know
	}
	query := u.Query()
	_, password := u.User.Password()
	has := map[string]bool{
		"host": u.Hostname() != "", "port": u.Port() != "", "dbname": strings.Trim(u.Path, "/") != "" || query.Has("database"),
		"user": u.User.Username() != "", "password": password, "sslmode": query.Has("ssl"),
	}
	separator := "?"
	if strings.Contains(dsn, "?") {
		separator = "&"
	}
	for _, e := range extra {
		if !has[e.key] && !query.Has(e.key) {
			// A space as + would stay a + in libpq's and pgx's reading.
			dsn += separator + e.key + "=" + strings.ReplaceAll(url.QueryEscape(e.value), "+", "%20")
			separator = "&"
		}
	}
	return dsn
}

// dsnFault names the fault of a connection string, without a word which could
// be a password; "" if nothing is. pgx's own text is not used: in a broken
// string pgx cannot always tell the password from the rest.
func dsnFault(dsn string) string {
	_, err := pgconn.ParseConfig(dsn)
	if err == nil {
		return ""
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return path.Error()
	}
	reason := ""
	for _, known := range []string{
		"failed to parse as URL", "failed to parse as keyword/value", "invalid port", "failed to configure TLS",
		"invalid connect_timeout", "invalid sslcertmode", "unknown target_session_attrs", "failed to read service",
		"port numbers", "protocol_version", "channel_binding", "require_auth", "sslnegotiation",
	} {
		if strings.Contains(err.Error(), known) {
			reason = " (" + known + ")"
			break
		}
	}
	return "expected a connection string such as postgres://user:password@host:5432/database or \"host=... dbname=...\", found " +
		secret.RedactDSN(dsn) + reason
}
