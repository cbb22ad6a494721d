package pgcluster

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
)

// given is a server run by another party.
type given struct{}

// startGiven checks that a given server answers and fits the options. A test in need of a setting missing on the server
// would only fail later, and less clearly.
func startGiven(ctx context.Context, dsn string, o Options) (*Cluster, error) {
	base, err := url.Parse(dsn)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("pgcluster: OUTFLOW_TEST_PG_URL must be like postgres://user:password@host:port/")
	}
	if base.Port() == "" {
		base.Host = net.JoinHostPort(base.Hostname(), "5432")
	}
	c := &Cluster{base: *base, srv: given{}}
	rows, err := c.query(ctx, "", "SELECT current_setting('server_version_num')::int / 10000, current_setting('wal_level')")
	if err != nil {
		return nil, err
	}
	if version := string(rows[0][0]); o.Version != 0 && version != strconv.Itoa(o.Version) {
		return nil, fmt.Errorf("pgcluster: version %d was asked for, OUTFLOW_TEST_PG_URL has %s: %w", o.Version, version, ErrNotOurs)
	}
	if level := string(rows[0][1]); level != "logical" && o.Settings["wal_level"] == "" {
		return nil, fmt.Errorf("pgcluster: wal_level is %s and must be logical: %w", level, ErrNotOurs)
	}
	for name, want := range o.Settings {
		if err := c.hasSetting(ctx, name, want); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// hasSetting checks a setting of a given server. Settings for speed alone may differ.
func (c *Cluster) hasSetting(ctx context.Context, name, want string) error {
	switch name {
	case "fsync", "synchronous_commit", "full_page_writes", "shared_buffers":
		return nil
	}
	rows, err := c.query(ctx, "", "SHOW "+name)
	if err != nil {
		return err
	}
	if is := string(rows[0][0]); is != want {
		return fmt.Errorf("pgcluster: %s = %s was asked for and is %s: %w", name, want, is, ErrNotOurs)
	}
	return nil
}

func (given) configure(context.Context, map[string]string) error { return ErrNotOurs }
func (given) start(context.Context) error                        { return ErrNotOurs }
func (given) stop(context.Context) error                         { return ErrNotOurs }
func (given) crash(context.Context) error                        { return ErrNotOurs }
func (given) killBackend(context.Context, int) error             { return ErrNotOurs }
func (given) detach(context.Context) (string, error)             { return "", ErrNotOurs }
func (given) log() string                                        { return "" }
func (given) remove() error                                      { return nil }
