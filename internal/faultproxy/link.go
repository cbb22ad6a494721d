package faultproxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// chunkSize is the upper limit of a single read.
const chunkSize = 32 << 10

// link is a client's connection together with the proxy's connection to the server.
type link struct {
	proxy  *Proxy
	client *net.TCPConn
	server *net.TCPConn
	passed atomic.Int64 // bytes, both ways
	muted  atomic.Bool  // set before the bytes are forwarded whose answer the client must not see
}

// upstream carries the client's bytes, and watches the bytes for the trigger.
func (l *link) upstream() {
	var (
		requests scanner
		watched  watch
		claimed  *trigger // the trigger matched; the request has yet to end
	)
	buffer := make([]byte, chunkSize)
	for {
		n, err := l.client.Read(buffer)
		chunk := buffer[:n]
		if l.proxy.cut.Load() && isCancel(chunk) { // of the cut client: a cancel would undo the request which the server is to carry out
			l.reset()
			return
		}
		ended, matched := requests.scan(chunk), 0
		if t := l.proxy.current().trigger; claimed == nil && t != nil {
			if at := watched.find(t, chunk); at >= 0 && l.proxy.claim(t) {
				claimed, matched = t, at
				l.muted.Store(true)
			}
		}
		if !l.forward(l.server, chunk) {
			return
		}
		if claimed != nil && ended >= matched {
			l.cutClient(claimed)
			return
		}
		if err != nil {
			l.finish(l.server, err)
			return
		}
	}
}

// isCancel reports whether a connection begins as a cancel request does (the Postgres manual, "Message Formats", CancelRequest).
func isCancel(chunk []byte) bool {
	return len(chunk) >= 8 && binary.BigEndian.Uint32(chunk) == 16 && binary.BigEndian.Uint32(chunk[4:]) == 80877102
}

// watch looks for a trigger's text, which may lie across chunks.
type watch struct {
	trigger *trigger
	past    []byte // the end of the bytes sent since the trigger was set, a byte short of a match; in lower case
}

// find returns the offset in the chunk behind the match, or -1.
func (w *watch) find(t *trigger, chunk []byte) int {
	if w.trigger != t {
		w.trigger, w.past = t, nil
	}
	old := len(w.past)
	seen := slices.Concat(w.past, bytes.ToLower(chunk))
	w.past = seen[max(0, len(seen)-len(t.match)+1):]
	if at := bytes.Index(seen, t.match); at >= 0 {
		return at + len(t.match) - old
	}
	return -1
}

// cutClient resets the client's side only. The server reads the request to its end, and then finds no client any more;
// downstream reads and drops the server's answers meanwhile.
func (l *link) cutClient(t *trigger) {
	l.proxy.cut.Store(true)
	abort(l.client)
	close(t.fired)
	l.server.CloseWrite() //nolint:errcheck // the server may have gone
}

// downstream carries the server's bytes.
func (l *link) downstream() {
	buffer := make([]byte, chunkSize)
	for {
		n, err := l.server.Read(buffer)
		if !l.muted.Load() && !l.forward(l.client, buffer[:n]) {
			return
		}
		if err != nil {
			if !l.muted.Load() {
				l.finish(l.client, err)
			}
			return
		}
	}
}

// finish passes on the end of a direction: an orderly end as such, else a reset.
func (l *link) finish(to *net.TCPConn, err error) {
	if errors.Is(err, io.EOF) {
		err = to.CloseWrite()
	}
	if err != nil {
		l.reset()
	}
}

// forward writes a chunk through the present faults; false means the link is over.
func (l *link) forward(to *net.TCPConn, chunk []byte) bool {
	for first := true; len(chunk) > 0; first = false {
		f, passed := l.pass(first)
		if !passed {
			return false
		}
		piece := chunk[:f.piece(len(chunk))]
		chunk = chunk[len(piece):]
		over := l.passed.Add(int64(len(piece))) - f.most
		if f.most > 0 && over > 0 {
			_, _ = to.Write(piece[:max(0, int64(len(piece))-over)])
			l.reset()
			return false
		}
		if to == l.client && l.muted.Load() {
			return true // the request came while the answer was held up: the answer is out of date
		}
		if _, err := to.Write(piece); err != nil {
			if to == l.client && l.muted.Load() {
				return true // cutClient closed the client meanwhile; the server must still carry the request out
			}
			l.reset()
			return false
		}
		if f.bandwidth > 0 && !wait(l.proxy.ctx, time.Duration(len(piece))*time.Second/time.Duration(f.bandwidth)) {
			return false
		}
	}
	return true
}

// pass waits out the delay, before a chunk's first piece, and a stall.
func (l *link) pass(first bool) (faults, bool) {
	f := l.proxy.current()
	if first && !wait(l.proxy.ctx, f.delay) {
		return f, false
	}
	for {
		select {
		case <-f.gate:
		case <-l.proxy.ctx.Done():
			return f, false
		}
		// While we waited, another stall may have begun.
		f = l.proxy.current()
		select {
		case <-f.gate:
			return f, true
		default:
		}
	}
}

// piece is how much of n bytes to write at once. With little bandwidth a whole chunk would be a long pause, so a piece
// is at most a twentieth of a second.
func (f faults) piece(n int) int {
	if f.slice > 0 {
		n = min(n, f.slice)
	}
	if f.bandwidth > 0 {
		n = min(n, max(1, f.bandwidth/20))
	}
	return n
}

// reset ends both sides with a TCP reset.
func (l *link) reset() {
	abort(l.client)
	abort(l.server)
}

// abort closes with a reset in place of an orderly end: without lingering, unsent bytes are lost.
func abort(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails on a closed connection
	_ = conn.Close()
}
