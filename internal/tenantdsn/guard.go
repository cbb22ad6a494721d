package tenantdsn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
)

// Bounds of a server's messages. pgx would keep parameters and rows, and compute as told by the server, without a bound
// of its own.
const (
	startBytes     = 256 << 10 // until the connection is ready, with TLS
	exchangeBytes  = 32 << 20  // between two writes of ours: the answers to one round trip
	parameterBytes = 64 << 10  // of the parameters that pgx keeps: the last ParameterStatus of each name
	maxMessage     = 4 << 20   // a header alone makes pgx allocate as much
	largeMessage   = 64 << 10  // larger messages count in largeBytes while they come
	largeBytes     = 32 << 20  // of all connections together
	textBytes      = 64 << 10  // of an error or a notice: a longer text comes cut, since pgx keeps the last of each kind
	shapeBytes     = 512 << 10 // of a description of columns or parameters: more than 65535 parameters take
	// scramIterations is far above any usual setting (4096 is Postgres' default) and takes some 30 ms. pgx takes ten million, which is
	// seconds, whatever the deadline.
	scramIterations = 100_000
	authBytes       = 8 << 10 // of a message about the login
)

// meter counts the bytes from the wire. The meter is below everything of pgx's, whose background reader takes in whatever comes while a
// write is slow.
type meter struct {
	net.Conn
	left  atomic.Int64 // bytes allowed to come
	heavy atomic.Bool  // the last row was a large message, which pgx keeps until the next row

	mu     sync.Mutex
	large  int64 // bytes of the large message that comes
	closed bool
}

// coming is the bytes of the large messages that are coming on all connections.
var coming atomic.Int64

// begins notes a large message that begins to come, and reports whether there is room for the message.
func (m *meter) begins(bytes int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return true
	}
	if coming.Add(int64(bytes)) > largeBytes {
		coming.Add(-int64(bytes))
		return false
	}
	m.large = int64(bytes)
	return true
}

// ends notes that the message has come, or will not come.
func (m *meter) ends() {
	coming.Add(-m.large)
	m.large = 0
}

// Close ends the connection. The rest of a message does not come.
func (m *meter) Close() error {
	m.mu.Lock()
	m.ends()
	m.closed = true
	m.mu.Unlock()
	return m.Conn.Close()
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	if m.left.Add(-int64(n)) < 0 {
		m.Close() // a write may be waiting for a server which only sends
		return 0, errFlood
	}
	return n, err
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	if m.left.Load() < 0 {
		return n, errFlood
	}
	return n, err
}

var errFlood = tooMuch("the server sends more than was requested")

// guard stands between pgx and the messages, above TLS. guard follows the headers, and fails before pgx has the end of an oversized
// message. Deadlines are the caller's: each operation of the caller has a deadline. A single goroutine calls guard.
type guard struct {
	r     io.Reader
	w     io.Writer
	meter *meter

	ready      bool           // the server was ready once
	parameters map[string]int // bytes of the last ParameterStatus of each name, nil before the first
	kept       int            // their sum
	failed     error          // every later call fails too

	header  [5]byte
	have    int    // bytes of header
	body    int    // bytes of the message still to come
	large   bool   // the message counts in largeBytes
	cut     bool   // the message is passed on shorter than it comes
	pass    int    // bytes of the message still to be passed on, where cut
	message []byte // of an authentication request or a ParameterStatus
}

// Write lets the server answer: the server's allowance starts again.
func (g *guard) Write(p []byte) (int, error) {
	if g.failed != nil {
		return 0, g.failed
	}
	if g.ready {
		g.meter.left.Store(exchangeBytes)
	}
	return g.w.Write(p)
}

func (g *guard) Read(p []byte) (int, error) {
	if g.failed != nil {
		return 0, g.failed
	}
	for {
		room := p
		if g.large { // nothing of the next message: pgx keeps the buffer of a message until all bytes in the buffer are used
			room = p[:min(len(p), g.body)]
		}
		n, err := g.r.Read(room)
		passed, failed := g.follow(p[:n])
		if g.failed = failed; failed != nil {
			return 0, failed
		}
		if passed > 0 || err != nil || n == 0 {
			return passed, err
		}
	}
}

func tooMuch(format string, args ...any) error {
	return &Error{class: classProtocol, text: fmt.Sprintf(format, args...), remedy: "find out which program answers there"}
}

// follow walks over the messages in p, and leaves the bytes for pgx at the front of p: so many are passed on.
func (g *guard) follow(p []byte) (passed int, err error) {
	for at := 0; at < len(p); {
		if g.have < len(g.header) {
			whole := g.have == 0
			n := copy(g.header[g.have:], p[at:])
			header := p[passed : passed+copy(p[passed:], p[at:at+n])]
			g.have, at, passed = g.have+n, at+n, passed+n
			if g.have < len(g.header) {
				return passed, nil
			}
			if err := g.begin(whole); err != nil {
				return 0, err
			}
			if g.cut {
				binary.BigEndian.PutUint32(header[1:], textBytes+4)
			}
		}
		n := min(g.body, len(p)-at)
		if g.header[0] == 'R' || g.header[0] == 'S' {
			g.message = append(g.message, p[at:at+n]...)
		}
		passed += copy(p[passed:], g.shorter(p[at:at+n]))
		g.body, at = g.body-n, at+n
		if g.body == 0 {
			g.have = 0
			if err := g.end(); err != nil {
				return 0, err
			}
		}
	}
	return passed, nil
}

// shorter is the part of a message that is passed on. A text that is cut ends with two NUL: of the field, and of the message.
func (g *guard) shorter(part []byte) []byte {
	if !g.cut {
		return part
	}
	part = part[:min(len(part), g.pass)]
	for i := max(0, g.pass-2); i < len(part); i++ {
		part[i] = 0
	}
	g.pass -= len(part)
	return part
}

// limit is how long a message of the kind may be, in bytes without the header. pgx keeps the last message of some kinds.
func limit(kind byte) int {
	switch kind {
	case 'D', 'E', 'N':
		return maxMessage
	case 'T', 't':
		return shapeBytes
	}
	return largeMessage
}

// begin looks at a header. The length counts itself. whole says that pgx has nothing of the header yet.
func (g *guard) begin(whole bool) error {
	kind, length := g.header[0], binary.BigEndian.Uint32(g.header[1:])
	if length < 4 || int64(length)-4 > int64(limit(kind)) {
		return tooMuch("a message of %d bytes; the server is not Postgres, or is hostile", length)
	}
	g.body = int(length) - 4
	g.cut, g.pass = (kind == 'E' || kind == 'N') && g.body > textBytes, textBytes
	if g.cut && !whole { // by chance: the next one does not come in two pieces
		return tooMuch("a text of %d bytes, in two pieces", length)
	}
	if g.large = g.body > largeMessage && !g.cut; g.large && !g.meter.begins(g.body) {
		return tooMuch("a message of %d bytes while other servers send such messages too", length)
	}
	g.message = g.message[:0]
	switch {
	case kind == 'D':
		g.meter.heavy.Store(g.large)
	case kind == 'R' && g.body > authBytes:
		return tooMuch("a login of %d bytes", g.body)
	case kind == 'S' && g.body > parameterBytes:
		return tooMuch("more than %d bytes of parameters", parameterBytes)
	}
	return nil
}

// end looks at a whole message. pgx has not got the last bytes yet.
func (g *guard) end() error {
	if g.large {
		g.large = false
		g.meter.mu.Lock()
		g.meter.ends()
		g.meter.mu.Unlock()
	}
	switch g.header[0] {
	case 'Z':
		if !g.ready {
			g.ready = true
			g.meter.left.Store(exchangeBytes)
		}
	case 'S':
		return g.parameter()
	case 'R':
		const saslContinue = 11
		if len(g.message) < 4 || binary.BigEndian.Uint32(g.message) != saslContinue {
			return nil
		}
		for part := range bytes.SplitSeq(g.message[4:], []byte{','}) {
			if text, ok := bytes.CutPrefix(part, []byte("i=")); ok {
				if n, err := strconv.Atoi(string(text)); err != nil || n > scramIterations {
					return tooMuch("a login that takes %.20q SCRAM iterations; more than %d are not computed", text, scramIterations)
				}
			}
		}
	}
	return nil
}

// parameter counts a ParameterStatus. A server reports a parameter at each change, so twice for each transaction that sets TimeZone:
// the bound is for what pgx keeps, not for the sum of the connection's whole life.
func (g *guard) parameter() error {
	name, _, _ := bytes.Cut(g.message, []byte{0})
	if g.parameters == nil {
		g.parameters = map[string]int{}
	}
	g.kept += len(g.message) - g.parameters[string(name)]
	g.parameters[string(name)] = len(g.message)
	if g.kept > parameterBytes {
		return tooMuch("more than %d bytes of parameters", parameterBytes)
	}
	return nil
}
