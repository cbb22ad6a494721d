package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy listens on a port of its own on 127.0.0.1 and forwards to a single server.
type Proxy struct {
	target   string
	listener net.Listener
	ctx      context.Context // ends with Close; every wait watches ctx
	cancel   context.CancelFunc
	running  sync.WaitGroup
	cut      atomic.Bool // a client was cut behind a request: see CutAfterQuery

	mu     sync.Mutex
	faults faults
	links  map[*link]struct{}
}

// faults are the present faults of the wire.
type faults struct {
	refuse    bool
	gate      chan struct{} // closed while bytes may pass
	delay     time.Duration // before each chunk
	bandwidth int           // bytes per second, 0 is unlimited
	slice     int           // bytes per write, 0 is a whole chunk
	most      int64         // bytes per connection before a reset, 0 is unlimited
	trigger   *trigger      // nil is none
}

// trigger is a one-shot CutAfterQuery.
type trigger struct {
	match []byte // in lower case
	fired chan struct{}
}

// New starts a proxy to a host:port, which need not answer yet. The caller must Close it.
func New(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faultproxy: %w", err)
	}
	p := &Proxy{target: target, listener: listener, links: map[*link]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.faults.gate = make(chan struct{})
	close(p.faults.gate)
	p.running.Go(p.accept)
	return p, nil
}

// Addr is the proxy's host and port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// DSN returns a connection string, a URL or keywords and values, with the proxy's host and port in place of the
// server's.
func (p *Proxy) DSN(dsn string) string {
	host, port, _ := net.SplitHostPort(p.Addr()) // a listener's address always splits
	if !strings.Contains(dsn, "://") {
		return fmt.Sprintf("%s host=%s port=%s", dsn, host, port) // the last setting wins
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn // a connection with the same string fails with the same error
	}
	u.Host = p.Addr()
	query := u.Query()
	query.Del("host")
	query.Del("port")
	u.RawQuery = query.Encode()
	return u.String()
}

// Open is the number of connections being forwarded.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Refuse has new connections reset before a byte has passed. Open ones are left alone.
func (p *Proxy) Refuse(on bool) { p.set(func(f *faults) { f.refuse = on }) }

// Stall holds all bytes, both ways, as on a half-open connection: connects succeed, writes succeed until the buffers
// are full, and nothing is answered. Held bytes pass when the stall ends.
func (p *Proxy) Stall(on bool) {
	p.set(func(f *faults) {
		select {
		case <-f.gate:
			if on {
				f.gate = make(chan struct{})
			}
		default:
			if !on {
				close(f.gate)
			}
		}
	})
}

// Delay waits before each chunk, in each direction. 0 is no delay.
func (p *Proxy) Delay(d time.Duration) { p.set(func(f *faults) { f.delay = d }) }

// Bandwidth bounds each direction of each connection. 0 is unlimited.
func (p *Proxy) Bandwidth(bytesPerSecond int) {
	p.set(func(f *faults) { f.bandwidth = bytesPerSecond })
}

// Slice forwards in writes of n bytes. The receiver may still read several at once. 0 is whole chunks.
func (p *Proxy) Slice(n int) { p.set(func(f *faults) { f.slice = n }) }

// CutAfterBytes resets each connection that has carried n bytes, both directions together, since the connection began: a message is cut in
// the middle. 0 is no limit.
func (p *Proxy) CutAfterBytes(n int) { p.set(func(f *faults) { f.most = int64(n) }) }

// CutAfterQuery waits for a text in a client's bytes, in any case of letters: then the matching request goes to the server up to the
// request's end (the Query, Sync or Flush), and the client's connection is reset before any answer. The server carries the request out;
// cancel requests do not pass from then on. The cut happens once; the channel is closed when the client has been cut, which may be before
// the server is done. Another call replaces a trigger not fired yet; an empty match removes the trigger.
//
// Where a statement was prepared earlier, only the statement's name is on the wire; where the statement is prepared in
// a separate round trip, the preparing request matches.
func (p *Proxy) CutAfterQuery(match string) (fired <-chan struct{}) {
	t := &trigger{match: bytes.ToLower([]byte(match)), fired: make(chan struct{})}
	p.set(func(f *faults) {
		f.trigger = t
		if match == "" {
			f.trigger = nil
		}
	})
	return t.fired
}

// Cut resets all connections, on both sides. New ones are accepted as before.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Close cuts all connections, stops listening, and returns when every goroutine has ended. Closing twice is no error.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.Cut()
	p.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (p *Proxy) set(change func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.faults)
}

func (p *Proxy) current() faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}

// claim takes a trigger for a connection; false if another connection was faster, or the trigger was replaced.
func (p *Proxy) claim(t *trigger) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.trigger != t {
		return false
	}
	p.faults.trigger = nil
	return true
}

// accept takes connections until Close.
func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			wait(p.ctx, 10*time.Millisecond) // out of file descriptors, say: do not spin
			continue
		}
		client := conn.(*net.TCPConn)
		if p.current().refuse {
			abort(client)
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// serve forwards a connection until both directions have ended.
func (p *Proxy) serve(client *net.TCPConn) {
	conn, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		abort(client)
		return
	}
	l := &link{proxy: p, client: client, server: conn.(*net.TCPConn)}
	if !p.add(l) {
		l.reset()
		return
	}
	var answers sync.WaitGroup
	answers.Go(l.downstream)
	l.upstream()
	answers.Wait()
	l.client.Close() //nolint:errcheck // mostly closed before
	l.server.Close() //nolint:errcheck // mostly closed before
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// add registers a connection, so a Cut finds the connection; false after Close.
func (p *Proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

// wait returns true after d, or false as soon as the context has ended.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
