package liar

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"
)

// Server is a listening server on a loopback port. Safe for concurrent use.
type Server struct {
	listener net.Listener
	target   string // host:port of the real server; "" makes up the answers
	seed     uint64
	rate     float64
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu    sync.Mutex
	count uint64         // connections so far
	told  map[string]int // lies by name
}

// Listen starts a server. target is host:port of the real server whose answers are passed on; "" makes up the answers. rate, from 0 to 1, is
// how often an answer is a lie. The seed and the number of a connection decide over the lies of the connection.
func Listen(target string, seed uint64, rate float64) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{listener: listener, target: target, seed: seed, rate: rate, told: map[string]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.accept)
	return s, nil
}

// Addr is the server's host:port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// DSN is a connection string, a URL, with the server's address in place of the string's own.
func (s *Server) DSN(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn // a connection with the same string fails with the same error
	}
	u.Host = s.Addr()
	return u.String()
}

// Told is how often each lie was told.
func (s *Server) Told() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.told)
}

// Close ends all connections and waits for the server's goroutines.
func (s *Server) Close() error {
	s.cancel()
	err := s.listener.Close()
	s.running.Wait()
	return err
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		s.count++
		n := s.count
		s.mu.Unlock()
		s.running.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(s.ctx, func() { conn.Close() })
			defer stop()
			m := &mouth{s: s, w: conn, rnd: rand.New(rand.NewPCG(s.seed, n))}
			if s.target == "" {
				_ = m.improvise(conn)
			} else {
				_ = m.between(conn)
			}
		})
	}
}

func (s *Server) tell(lie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[lie]++
}

// frame is a message: its type and its body, less the length.
type frame struct {
	kind byte
	body []byte
}

func (f frame) bytes() []byte { return f.withLength(uint32(len(f.body) + 4)) }

func (f frame) withLength(n uint32) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{f.kind}, n), f.body...)
}

// readFrame reads a message of a server.
func readFrame(r io.Reader) (frame, error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(header[1:])
	if n < 4 || n > 64<<20 {
		return frame{}, fmt.Errorf("a message of %d bytes", n)
	}
	f := frame{header[0], make([]byte, n-4)}
	_, err := io.ReadFull(r, f.body)
	return f, err
}

// between passes everything of the client to the real server, and the answers back.
func (m *mouth) between(client net.Conn) error {
	server, err := net.DialTimeout("tcp", m.s.target, 5*time.Second)
	if err != nil {
		return err
	}
	defer server.Close()
	stop := context.AfterFunc(m.s.ctx, func() { server.Close() })
	defer stop()
	m.s.running.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	for {
		f, err := readFrame(server)
		if err != nil {
			return err
		}
		if err := m.say(f); err != nil {
			return err
		}
	}
}

var errEnough = errors.New("the server has had enough")
