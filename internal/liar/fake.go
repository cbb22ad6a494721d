package liar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgproto3"
)

// improvise is a server without a database: it accepts every login and makes up the answers.
func (m *mouth) improvise(conn net.Conn) error {
	b := pgproto3.NewBackend(conn, io.Discard)
	b.SetMaxBodyLen(64 << 20)
	for {
		first, err := b.ReceiveStartupMessage()
		if err != nil {
			return err
		}
		switch first.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if err := m.write([]byte{"NNNNNSEx"[m.rnd.IntN(8)]}); err != nil {
				return err
			}
			continue
		case *pgproto3.CancelRequest:
			return nil
		}
		break
	}
	if err := m.admit(b); err != nil {
		return err
	}
	sql := map[string]string{} // of the prepared statements
	for {
		message, err := b.Receive()
		if err != nil {
			return err
		}
		if err := m.answer(message, sql); err != nil {
			return err
		}
	}
}

// admit lets the client in: at once, or with SCRAM and a number of iterations.
func (m *mouth) admit(b *pgproto3.Backend) error {
	if m.rnd.Float64() < m.s.rate {
		if err := m.scram(b); err != nil {
			return err
		}
	}
	for _, f := range []frame{{'R', []byte{0, 0, 0, 0}}, {'S', []byte("server_version\x0015.1\x00")}, {'S', []byte("server_encoding\x00UTF8\x00")},
		{'S', []byte("client_encoding\x00UTF8\x00")}, {'K', []byte{0, 0, 0, 1, 0, 0, 0, 2}}, {'Z', []byte{'I'}}} {
		if err := m.say(f); err != nil {
			return err
		}
	}
	return nil
}

// scram asks for a proof of the password, and for very much computing.
func (m *mouth) scram(b *pgproto3.Backend) error {
	m.s.tell("scram")
	if err := m.write(frame{'R', append([]byte{0, 0, 0, 10}, "SCRAM-SHA-256\x00\x00"...)}.bytes()); err != nil {
		return err
	}
	if err := b.SetAuthType(pgproto3.AuthTypeSASL); err != nil {
		return err
	}
	message, err := b.Receive()
	if err != nil {
		return err
	}
	first, ok := message.(*pgproto3.SASLInitialResponse)
	if !ok {
		return errors.New("no SCRAM")
	}
	_, nonce, _ := strings.Cut(string(first.Data), "r=")
	iterations := []string{"4096", "2000000000", "99999999999999999999", "-1", "0", "100000"}[m.rnd.IntN(6)]
	if err := m.write(frame{'R', fmt.Appendf([]byte{0, 0, 0, 11}, "r=%sx,s=c2FsdA==,i=%s", nonce, iterations)}.bytes()); err != nil {
		return err
	}
	if err := b.SetAuthType(pgproto3.AuthTypeSASLContinue); err != nil {
		return err
	}
	_, err = b.Receive()
	return err
}

// answer answers a message of the client: what the form of the statement asks for, and rows that are made up.
func (m *mouth) answer(message pgproto3.FrontendMessage, sql map[string]string) error {
	var frames []frame
	switch message := message.(type) {
	case *pgproto3.Parse:
		sql[message.Name] = message.Query
		frames = []frame{{'1', nil}}
	case *pgproto3.Bind:
		sql["\x00bound"] = sql[message.PreparedStatement]
		frames = []frame{{'2', nil}}
	case *pgproto3.Describe:
		if message.ObjectType == 'S' {
			frames = append(frames, m.parameters(sql[message.Name]))
		}
		frames = append(frames, m.description(columns(sql["\x00bound"])))
	case *pgproto3.Execute:
		frames = m.result(sql["\x00bound"])
	case *pgproto3.Query:
		frames = append(append([]frame{m.description(columns(message.String))}, m.result(message.String)...), frame{'Z', []byte{'I'}})
	case *pgproto3.Close:
		frames = []frame{{'3', nil}}
	case *pgproto3.Sync:
		status := byte('I')
		if bound := sql["\x00bound"]; bound != "" && !strings.HasPrefix(bound, "COMMIT") && m.rnd.IntN(2) == 0 {
			status = 'T'
		}
		frames = []frame{{'Z', []byte{status}}}
	case *pgproto3.Terminate:
		return errEnough
	}
	for _, f := range frames {
		if err := m.say(f); err != nil {
			return err
		}
	}
	return nil
}

// parameters describes the parameters of a statement.
func (m *mouth) parameters(sql string) frame {
	n := 0
	for strings.Contains(sql, fmt.Sprintf("$%d", n+1)) {
		n++
	}
	body := binary.BigEndian.AppendUint16(nil, uint16(n))
	for range n {
		body = binary.BigEndian.AppendUint32(body, 25)
	}
	return frame{'t', body}
}

// columns is about how many columns a query has.
func columns(sql string) int {
	list, _, _ := strings.Cut(sql, "FROM")
	return 1 + strings.Count(list, ",")
}

// result is up to two rows, and the tag of the statement.
func (m *mouth) result(sql string) (frames []frame) {
	verb, _, _ := strings.Cut(strings.TrimSpace(sql), " ")
	if verb == "SELECT" || verb == "WITH" {
		verb = "SELECT 1"
		n := columns(sql)
		for range m.rnd.IntN(3) {
			frames = append(frames, m.row(n, n))
		}
	}
	return append(frames, frame{'C', append([]byte(verb), 0)})
}

// connected reports whether the client has not closed the connection. Data that has come stays to be read.
func connected(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return false
	}
	there := true
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		there = n > 0 || err == syscall.EAGAIN
		return true
	})
	return err == nil && there
}
