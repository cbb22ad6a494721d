package admin

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// maxConnections bounds the open connections: far more than the pages, scrapers and probes of a process need, and a small part of the
// descriptors of a process (1024 by default), of which the external databases take up to sink.max_connections.
const maxConnections = 256

// connections bounds the open connections of a server. One connection too many closes another connection: one of the address with the most
// connections, and there one without a request, the longest quiet first. So an address with very many connections takes its own places, and
// behind a reverse proxy, which has a single address, idle connections go first. Safe for concurrent use.
//
// Rejected: a limit on accepting (netutil.LimitListener). The probes of an orchestrator would wait behind idle connections, and the orchestrator
// would kill the process.
type connections struct {
	most int

	mu   sync.Mutex
	open map[net.Conn]connection
}

type connection struct {
	host    string
	working bool // a request was read and is not answered yet
	since   time.Time
}

// note is the server's ConnState. A connection counts as quiet until its request has arrived as a whole, so slow headers do not keep a place.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[net.Conn]connection{}
	}
	switch known, ok := c.open[conn]; {
	case state == http.StateClosed || state == http.StateHijacked:
		delete(c.open, conn)
	case state == http.StateNew:
		c.open[conn] = connection{host: hostOf(conn.RemoteAddr()), since: time.Now()}
		if len(c.open) > c.most {
			c.closeOne(conn)
		}
	case ok: // else closed here already
		known.working, known.since = state == http.StateActive, time.Now()
		c.open[conn] = known
	}
}

// closeOne closes a connection other than the newest. Called with mu held.
func (c *connections) closeOne(newest net.Conn) {
	count := map[string]int{}
	for _, o := range c.open {
		count[o.host]++
	}
	var victim net.Conn
	var is connection
	for conn, o := range c.open {
		if conn == newest {
			continue
		}
		var worse bool
		switch {
		case victim == nil, count[o.host] != count[is.host]:
			worse = victim == nil || count[o.host] > count[is.host]
		case o.working != is.working:
			worse = !o.working
		default:
			worse = o.since.Before(is.since)
		}
		if worse {
			victim, is = conn, o
		}
	}
	delete(c.open, victim)
	_ = victim.Close()
}

// hostOf is the address without the port: one client has many ports.
func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
