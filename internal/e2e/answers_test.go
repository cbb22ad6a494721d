package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
	"outflow/sink/external"
)

// garbler stands before a server. From the row of an answer with a given number on, of all connections together, garbler sends other rows.
type garbler struct {
	url     string
	address string
	server  string
	lie     atomic.Pointer[lie]
	deafTo  atomic.Pointer[string] // a statement with this text gets no answer
	rows    atomic.Int64
	garbled atomic.Int64
}

type lie struct {
	from   int64                   // number of the first garbled row
	garble func(row []byte) []byte // makes other messages of a message of type D; nil is silence forever
}

func newGarbler(t *testing.T, dsn string) *garbler {
	t.Helper()
	u, err := url.Parse(dsn)
	must(t, err)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	g := &garbler{server: u.Host}
	u.Host = l.Addr().String()
	g.url, g.address = u.String(), u.Host
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { g.serve(ctx, client) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		all.Wait()
	})
	return g
}

// set has all rows from the given one on garbled.
func (g *garbler) set(from int, garble func([]byte) []byte) {
	g.lie.Store(&lie{int64(from), garble})
	g.rows.Store(0)
	g.garbled.Store(0)
}

func (g *garbler) serve(ctx context.Context, client net.Conn) {
	server, err := net.Dial("tcp", g.server)
	if err != nil {
		return
	}
	end := func() {
		_ = client.Close()
		_ = server.Close()
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(&ear{g, server}, client)
		_ = server.Close()
	}()
	defer func() {
		end()
		<-gone
	}()
	header := make([]byte, 5)
	for {
		if _, err := io.ReadFull(server, header); err != nil {
			return
		}
		message := append([]byte{}, header...)
		message = append(message, make([]byte, binary.BigEndian.Uint32(header[1:])-4)...)
		if _, err := io.ReadFull(server, message[5:]); err != nil {
			return
		}
		if l := g.lie.Load(); header[0] == 'D' && l != nil && g.rows.Add(1) > l.from {
			g.garbled.Add(1)
			if l.garble == nil {
				<-gone
				return
			}
			message = l.garble(message)
		}
		if _, err := client.Write(message); err != nil {
			return
		}
	}
}

// ear passes the client's messages to the server, but for statements that the garbler is deaf to.
type ear struct {
	g      *garbler
	server net.Conn
}

func (e *ear) Write(p []byte) (int, error) {
	if text := e.g.deafTo.Load(); text != nil && bytes.Contains(p, []byte(*text)) {
		e.g.garbled.Add(1)
		return len(p), nil
	}
	return e.server.Write(p)
}

// dataRow is a message of type D.
func dataRow(values ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		if v == nil {
			body = append(body, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		body = append(binary.BigEndian.AppendUint32(body, uint32(len(v))), v...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{'D'}, uint32(len(body)+4)), body...)
}

// columnsOf is the number of columns of a message of type D.
func columnsOf(row []byte) int { return int(binary.BigEndian.Uint16(row[5:])) }

// evil is a text that would clear a terminal and set its title, in 7-bit and in 8-bit form, and turn the direction of the writing.
const evil = "\x1b[2J\x1b]0;evil\x07\u009b31m\u202eevil\x00\x7f"

var garbles = map[string]func(row []byte) []byte{
	"one column":    func([]byte) []byte { return dataRow([]byte("1")) },
	"no column":     func([]byte) []byte { return dataRow() },
	"no row":        func([]byte) []byte { return nil },
	"two rows":      func(row []byte) []byte { return append(append([]byte{}, row...), row...) },
	"a column more": func(row []byte) []byte { return dataRow(make([][]byte, columnsOf(row)+1)...) },
	"NULLs":         func(row []byte) []byte { return dataRow(make([][]byte, columnsOf(row))...) },
	"empty texts":   func(row []byte) []byte { return filled(row, "") },
	"controls":      func(row []byte) []byte { return filled(row, evil) },
	"large number":  func(row []byte) []byte { return filled(row, "9223372036854775807") },
	"silence":       nil,
}

func filled(row []byte, text string) []byte {
	values := make([][]byte, columnsOf(row))
	for i := range values {
		values[i] = []byte(text)
	}
	return dataRow(values...)
}

// TestGarbledAnswers has an external database answer with other rows from each row of its answers on: check, verify and the reading of
// --slot-reset end with a finding, in a bounded time, and print nothing for a terminal to obey.
func TestGarbledAnswers(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(3, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	g := newGarbler(t, dsn)
	w.cfg.Destinations.Static[0].DSN = secret.New(g.url)
	w.cfg.Sink.StatementTimeout, w.cfg.Sink.LockTimeout, w.cfg.Sink.ConnectTimeout = 250*time.Millisecond, 50*time.Millisecond, 500*time.Millisecond
	exec(t, connect(t, dsn), `UPDATE users SET display_name = 'x'`) // for the differences, which verify looks at more than once
	reset := func() (string, int) {
		config, err := pgconn.ParseConfig(g.url)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		external.SequenceIDs(ctx, []external.DestinationSpec{{Tenant: tenant1, Name: "main", Connect: config}}, w.cfg.Sink.Options)
		return tenant1 + "/main", 0
	}
	for command, run := range map[string]func() (string, int){
		"check":  func() (string, int) { return w.run("check") },
		"verify": func() (string, int) { return w.run("verify") },
		"reset":  reset,
	} {
		looks := 0
		for name, garble := range garbles {
			step := 6
			if garble == nil || name == "one column" {
				step = 3
			}
			for from := 0; ; from = step*from + 1 {
				g.set(from, garble)
				began := time.Now()
				out, code := run()
				if !strings.Contains(out, tenant1+"/main") {
					t.Errorf("%s, %s from row %d on: exit code %d: %s", command, name, from, code, out)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("%s, %s from row %d on: it took %s", command, name, from, took)
				}
				if i := strings.IndexFunc(out, steersTerminal); i >= 0 {
					t.Errorf("%s, %s from row %d on: %q", command, name, from, out[max(0, i-80):])
				}
				if g.garbled.Load() == 0 {
					break
				}
				looks++
				if command != "reset" && garble == nil && !strings.Contains(out, g.address) {
					t.Errorf("%s, %s from row %d on: nothing names the silent server: %q", command, name, from, out)
				}
			}
		}
		t.Logf("%s: %d looks", command, looks)
	}
}

// TestSilenceAtAStatement has an external database stop answering at one statement of check, verify or verify --repair: each command soon ends,
// and names the server.
func TestSilenceAtAStatement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(3, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	g := newGarbler(t, dsn)
	w.cfg.Destinations.Static[0].DSN = secret.New(g.url)
	w.cfg.Sink.StatementTimeout, w.cfg.Sink.LockTimeout, w.cfg.Sink.ConnectTimeout = 250*time.Millisecond, 50*time.Millisecond, 500*time.Millisecond
	exec(t, connect(t, dsn), `UPDATE users SET display_name = 'x'`)
	for _, c := range []struct {
		command    []string
		statements []string
	}{
		{[]string{"check"}, []string{"current_setting('server_version')", "pg_current_wal_flush_lsn", "_stack_sync_metadata", "SAVEPOINT outflow_check", "EXPLAIN", "ROLLBACK"}},
		{[]string{"verify", "--repair"}, []string{"BEGIN", "CREATE TEMPORARY TABLE", "pg_index i", "attgenerated", "transaction_read_only = on", "SAVEPOINT outflow_rows", `INSERT INTO "users"`, "ANALYZE",
			"both_sides", "SELECT count(*) FROM pg_temp", "DELETE FROM pg_temp", "INSERT INTO pg_temp", `SELECT "id" AS "projectUserId"`, "FOR UPDATE", "COMMIT"}},
	} {
		for _, statement := range c.statements {
			g.deafTo.Store(&statement)
			g.garbled.Store(0)
			began := time.Now()
			out, code := w.run(c.command...)
			if !strings.Contains(out, tenant1+"/main") {
				t.Errorf("silence at %s: exit code %d: %s", statement, code, out)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("silence at %s: it took %s", statement, took)
			}
			if g.garbled.Load() == 0 {
				t.Errorf("nothing asks %s: %s", statement, out)
			}
			// The server itself may end a transaction in which it hears nothing.
			if statement != "ROLLBACK" && !strings.Contains(out, g.address) && !strings.Contains(out, "(SQLSTATE 25P03)") {
				t.Errorf("silence at %s: nothing names the server: %s", statement, out)
			}
		}
	}
}
