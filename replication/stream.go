package replication

import (
	"bufio"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

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

func frontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
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
