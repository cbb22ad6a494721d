package replication

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

type conn = net.Conn

// stream is the socket of the replication connection. The walsender flushes every message, so a reader asleep in
// read(2) is woken for each message: each wake costs the walsender twice the CPU and the reader a context switch a row.
// While messages come thick, stream therefore lets messages gather in the socket for two milliseconds and takes all in
// a single read; when messages come singly stream never waits.
type stream struct {
	conn
	deadline    time.Time   // when the next read gives up, for a status update to be due
	interrupted atomic.Bool // makes reads give up at once

	heard       time.Time // when the server last said something
	windowStart time.Time // start of the window in which reads are counted
	reads       int       // reads in the window
	gathering   bool
}

const (
	readBuffer   = 256 << 10 // bytes taken from the socket at once
	gatherPause  = 2 * time.Millisecond
	gatherWindow = 5 * time.Millisecond
	gatherReads  = 30      // reads in a window from which on messages are let gather
	gatherBytes  = 4 << 10 // a smaller gathered read ends the gathering
)

// connectStream opens a walsender connection, and returns the connection's socket: see [stream]. Each dial has a stream of its own:
// pgconn dials again for another host of the connection string, and, when a connection breaks, in the background for a cancel request.
func connectStream(ctx context.Context, config *pgconn.Config) (*pgconn.PgConn, *stream, error) {
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &stream{conn: c}, nil
	}
	config.BuildFrontend = frontend
	pg, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	socket := pg.Conn()
	if encrypted, ok := socket.(*tls.Conn); ok {
		socket = encrypted.NetConn()
	}
	return pg, socket.(*stream), nil // DialFunc makes no other
}

func frontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	return pgproto3.NewFrontend(&sieve{r: bufio.NewReaderSize(r, readBuffer)}, w)
}

// sieve leaves out large logical messages. Every role that may connect to the primary may write a message of a gigabyte (pg_logical_emit_message
// is granted to PUBLIC), the server sends all messages to a reader that asks for messages, and the driver would take in the whole message.
// Outflow's own messages are small.
type sieve struct {
	r    *bufio.Reader
	left int // bytes of the message that is being read
	skip int // bytes of the message that is being left out
}

// largestMessage is the size of the largest logical message that is not left out, in bytes.
const largestMessage = 64 << 10

// The place of the kind of a pgoutput message: behind the header and the positions of XLogData in CopyData (the Postgres manual, 55.4 and 55.7).
const (
	headerBytes = 5
	kindAt      = headerBytes + 25
)

// Read implements io.Reader. After an error, of a deadline for instance, reading goes on where it has stopped.
func (s *sieve) Read(p []byte) (int, error) {
	for s.left == 0 {
		if s.skip > 0 {
			n, err := s.r.Discard(s.skip)
			if s.skip -= n; err != nil {
				return 0, err
			}
		}
		if err := s.begin(); err != nil {
			return 0, err
		}
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// begin looks at the next message.
func (s *sieve) begin() error {
	header, err := s.r.Peek(headerBytes)
	if err != nil {
		return err
	}
	size := 1 + max(4, int(binary.BigEndian.Uint32(header[1:]))) // a wrong length is for the driver to refuse
	if header[0] != 'd' || size <= largestMessage {
		s.left = size
		return nil
	}
	start, err := s.r.Peek(kindAt + 1)
	if err != nil {
		return err
	}
	if start[headerBytes] == 'w' && start[kindAt] == 'M' {
		s.skip = size
	} else {
		s.left = size
	}
	return nil
}

// Read implements net.Conn. Read returns os.ErrDeadlineExceeded when the deadline has passed or interrupt was called;
// the protocol's reader keeps a partial message across the error.
func (s *stream) Read(p []byte) (int, error) {
	if !s.deadline.IsZero() {
		if s.interrupted.Load() || !time.Now().Before(s.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
		if s.gathering {
			time.Sleep(gatherPause)
		}
		if err := s.conn.SetReadDeadline(s.deadline); err != nil {
			return 0, err
		}
		if s.interrupted.Load() { // between the check and the new deadline
			return 0, os.ErrDeadlineExceeded
		}
	}
	n, err := s.conn.Read(p)
	if n > 0 {
		s.heard = time.Now()
		s.pace(n, s.heard)
	}
	return n, err
}

// pace decides whether the next read lets messages gather.
func (s *stream) pace(n int, now time.Time) {
	if s.gathering {
		s.gathering = n >= gatherBytes
		s.reads, s.windowStart = 0, now
		return
	}
	if s.reads++; s.reads < gatherReads {
		return
	}
	s.gathering = now.Sub(s.windowStart) < gatherWindow
	s.reads, s.windowStart = 0, now
}

// interrupt makes the pending and all later reads return. Safe for concurrent use.
func (s *stream) interrupt() {
	s.interrupted.Store(true)
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
}
