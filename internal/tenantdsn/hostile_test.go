package tenantdsn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// message is one of the server's messages.
func message(kind byte, body string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(b, body...)
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

var (
	authOK  = message('R', "\x00\x00\x00\x00")
	ready   = message('Z', "I")
	sasl    = message('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")
	started = concat(authOK, message('K', "\x00\x00\x00\x01\x00\x00\x00\x02"), ready)
)

// hostile is a server that answers each message of the client with the next of these, then repeats flood forever.
func hostile(t *testing.T, flood []byte, answers ...[]byte) (*pgconn.PgConn, error) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 4096)
		for _, a := range answers {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if strings.HasPrefix(string(a), "scram:") { // the client's nonce must come back
				_, nonce, _ := strings.Cut(string(buf), "r=")
				nonce, _, _ = strings.Cut(nonce, "\x00")
				a = message('R', "\x00\x00\x00\x0b"+strings.Replace(string(a[len("scram:"):]), "NONCE", nonce, 1))
			}
			if _, err := conn.Write(a); err != nil {
				return
			}
		}
		for len(flood) > 0 {
			if _, err := conn.Write(flood); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, conn) // silence
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	p := Policy{MinSSLMode: "disable", AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	config, err := Parse(fmt.Sprintf("postgres://u:p@%s/d?sslmode=disable", listener.Addr()), "", p, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			_ = conn.Close(ctx)
		})
	}
	return conn, err
}

// allocated runs f and returns what it allocated.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// manyParameters are more parameters than a connection may keep.
func manyParameters() (all []byte) {
	for n := range 100 {
		all = append(all, message('S', fmt.Sprintf("%03d%s\x00v\x00", n, strings.Repeat("n", 1000)))...)
	}
	return all
}

// A parameter that changes again and again, as TimeZone does with each transaction that sets it, is kept once and counts once.
func TestParametersThatChange(t *testing.T) {
	changes := bytes.Repeat(concat(message('S', "TimeZone\x00UTC\x00"), message('S', "TimeZone\x00Europe/Berlin\x00")), 2000)
	g := &guard{meter: &meter{}, ready: true}
	if _, err := g.follow(changes); err != nil {
		t.Errorf("%d bytes of changes of one parameter: %v", len(changes), err)
	}
	if _, err := g.follow(manyParameters()); class(err) != "protocol" {
		t.Errorf("many parameters: %v", err)
	}
}

func TestHostileHandshake(t *testing.T) {
	parameter := message('S', strings.Repeat("n", 500)+"\x00"+strings.Repeat("v", 500)+"\x00")
	for name, c := range map[string]struct {
		flood   []byte
		answers [][]byte
	}{
		"a header of a gigabyte":       {nil, [][]byte{{'R', 0x3f, 0xff, 0xff, 0xff}}},
		"a header of two gigabytes":    {nil, [][]byte{{'S', 0xff, 0xff, 0xff, 0xff}}},
		"a length of nothing":          {nil, [][]byte{{'R', 0, 0, 0, 0}}},
		"parameters without end":       {parameter, [][]byte{authOK}},
		"many parameters":              {manyParameters(), [][]byte{authOK}},
		"notices without end":          {message('N', "SNOTICE\x00M"+strings.Repeat("x", 1000)+"\x00\x00"), [][]byte{authOK}},
		"a login of a megabyte":        {nil, [][]byte{message('R', "\x00\x00\x00\x0a"+strings.Repeat("x\x00", 500_000)+"\x00")}},
		"ten million SCRAM iterations": {nil, [][]byte{sasl, []byte("scram:r=NONCEserver,s=c2FsdHNhbHRzYWx0c2FsdA==,i=10000000")}},
		"SCRAM iterations, two counts": {nil, [][]byte{sasl, []byte("scram:r=NONCEserver,s=c2FsdHNhbHRzYWx0c2FsdA==,i=9999999,i=4096")}},
		"not Postgres":                 {nil, [][]byte{[]byte("HTTP/1.1 400 Bad Request\r\n\r\n" + strings.Repeat("secret ", 100))}},
	} {
		began := time.Now()
		var err error
		n := allocated(func() { _, err = hostile(t, c.flood, c.answers...) })
		if got := class(err); got != "protocol" {
			t.Errorf("%s: %s", name, got)
		}
		if took := time.Since(began); took > 2*time.Second || n > 32<<20 {
			t.Errorf("%s: took %s and %d MiB", name, took, n>>20)
		}
	}
	began := time.Now()
	if _, err := hostile(t, nil, authOK); err == nil || time.Since(began) > 2*time.Second { // then silence
		t.Errorf("a server that falls silent: %v after %s", err, time.Since(began))
	}
	// A login with as many iterations as real servers use is computed: the login fails only because the server does not know the password.
	if _, err := hostile(t, nil, sasl, []byte("scram:r=NONCEserver,s=c2FsdHNhbHRzYWx0c2FsdA==,i=100000"), message('E', "SFATAL\x00C28P01\x00Mno\x00\x00")); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("a hundred thousand iterations: %v", err)
	}
}

func TestHostileAnswers(t *testing.T) {
	row := message('D', "\x00\x01\x00\x00\x03\xe8"+strings.Repeat("x", 1000))
	columns := message('T', "\x00\x01c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00")
	described := concat(message('1', ""), message('2', ""), columns)
	for name, c := range map[string]struct {
		flood  []byte
		answer []byte
	}{
		"rows without end":           {bytes.Repeat(row, 60), described},
		"parameters without end":     {message('S', strings.Repeat("n", 500)+"\x00v\x00"), described},
		"many parameters":            {manyParameters(), described},
		"one large parameter":        {nil, concat(described, message('S', "n\x00"+strings.Repeat("v", parameterBytes)+"\x00"))},
		"notifications without end":  {message('A', "\x00\x00\x00\x01"+strings.Repeat("n", 1000)+"\x00\x00"), described},
		"a row of half a gigabyte":   {nil, concat(described, []byte{'D', 0x20, 0, 0, 0})},
		"an error of a hundred MB":   {nil, concat(described, []byte{'E', 0x06, 0, 0, 0})},
		"a stream of something else": {[]byte("\x00\x00\x00\x00\x00\x00\x00\x00"), described},
	} {
		conn, err := hostile(t, c.flood, started, c.answer)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		began := time.Now()
		n := allocated(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err = conn.ExecParams(ctx, "SELECT 1", nil, nil, nil, nil).Read().Err
		})
		if got := class(err); got != "protocol" {
			t.Errorf("%s: %s", name, got)
		}
		if took := time.Since(began); took > 4*time.Second || n > 256<<20 {
			t.Errorf("%s: took %s and %d MiB", name, took, n>>20)
		}
	}
}

// While a write of ours is slow, pgx takes in whatever comes: that is bounded too.
func TestFloodBesideASlowWrite(t *testing.T) {
	conn, err := hostile(t, message('N', "SNOTICE\x00M"+strings.Repeat("x", 4000)+"\x00\x00"), started)
	if err != nil {
		t.Fatal(err)
	}
	n := allocated(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err = conn.ExecParams(ctx, "SELECT $1", [][]byte{make([]byte, 16<<20)}, nil, nil, nil).Read().Err
	})
	if got := class(err); got != "protocol" || n > 256<<20 {
		t.Errorf("%s, %d MiB", got, n>>20)
	}
}

// A connection that rests keeps nothing of what its server has said.
func TestRestingConnectionsKeepNothing(t *testing.T) {
	inUse := func() int64 {
		runtime.GC()
		runtime.GC() // pools give their buffers up at the second one
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	long := strings.Repeat("x", 2<<20+1000)
	answer := concat(message('N', "SNOTICE\x00M"+long+"\x00\x00"), message('E', "SERROR\x00VERROR\x00CP0001\x00M"+long+"\x00Dmore\x00\x00"), ready)
	before := inUse()
	var conns []*pgconn.PgConn
	for range 8 {
		conn, err := hostile(t, nil, started, answer)
		if err != nil {
			t.Fatal(err)
		}
		var told *pgconn.PgError
		if err := conn.Exec(t.Context(), "SELECT").Close(); !errors.As(err, &told) || told.Code != "P0001" || len(told.Message) < textBytes/2 || told.Detail != "" {
			t.Fatalf("the error is %.100v", err)
		}
		conns = append(conns, conn)
	}
	if kept := inUse() - before; kept > 4<<20 {
		t.Errorf("%d resting connections keep %d MiB", len(conns), kept>>20)
	}
	row := message('D', "\x00\x01\x00\x01\x11\x70"+strings.Repeat("x", 70000))
	columns := message('T', "\x00\x01c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00")
	conn, err := hostile(t, nil, started, concat(columns, row, message('C', "SELECT 1\x00"), ready))
	if err != nil {
		t.Fatal(err)
	}
	if Heavy(conn) {
		t.Error("a connection without a row is heavy")
	}
	if err := conn.Exec(t.Context(), "SELECT").Close(); err != nil || !Heavy(conn) {
		t.Errorf("a connection whose last row was large is not heavy: %v", err)
	}
}

// What comes in pieces of any size is followed alike. A header of a text that is cut must come whole.
func TestTextsAreCut(t *testing.T) {
	long := strings.Repeat("x", textBytes)
	short := message('E', "SERROR\x00M"+strings.Repeat("y", 100)+"\x00\x00")
	cut := func(kind byte, start string) []byte {
		return message(kind, start+strings.Repeat("x", textBytes-len(start)-2)+"\x00\x00")
	}
	stream := concat(message('N', "SNOTICE\x00M"+long+"\x00\x00"), message('1', ""), short, message('E', "SERROR\x00M"+long+long+"\x00\x00"), ready)
	want := concat(cut('N', "SNOTICE\x00M"), message('1', ""), short, cut('E', "SERROR\x00M"), ready)
	refused := 0
	for size := 1; size < 9000; size += 1 + size/10 {
		g := &guard{meter: &meter{}, ready: true}
		var got []byte
		var err error
		for rest := stream; len(rest) > 0 && err == nil; {
			part, passed := bytes.Clone(rest[:min(size, len(rest))]), 0
			passed, err = g.follow(part)
			got, rest = append(got, part[:passed]...), rest[len(part):]
		}
		if err != nil {
			refused++
		} else if !bytes.Equal(got, want) {
			t.Errorf("in pieces of %d: %d bytes of %d", size, len(got), len(want))
		}
	}
	if refused > 20 {
		t.Errorf("%d sizes are refused", refused)
	}
}

// All servers together send large messages up to a bound; a message that has come, or whose connection is closed, makes room.
func TestLargeMessagesShareABound(t *testing.T) {
	var conns []*guard
	header := binary.BigEndian.AppendUint32([]byte{'D'}, maxMessage)
	begin := func() error {
		client, server := net.Pipe()
		t.Cleanup(func() { server.Close() })
		g := &guard{meter: &meter{Conn: client}, ready: true}
		t.Cleanup(func() { g.meter.Close() })
		conns = append(conns, g)
		_, err := g.follow(bytes.Clone(header))
		return err
	}
	for range largeBytes / maxMessage {
		if err := begin(); err != nil {
			t.Fatal(err)
		}
	}
	if err := begin(); class(err) != "protocol" {
		t.Errorf("beyond the bound: %v", err)
	}
	conns[0].meter.Close()
	if err := begin(); err != nil {
		t.Errorf("a connection was closed: %v", err)
	}
	if _, err := conns[1].follow(make([]byte, maxMessage-4)); err != nil {
		t.Error(err)
	}
	if err := begin(); err != nil {
		t.Errorf("a message has come: %v", err)
	}
}
