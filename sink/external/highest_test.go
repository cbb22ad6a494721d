package external

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// flooding is a server that answers every statement with millions of rows without a column. It returns the connection string.
func flooding(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			_ = flood(conn)
			_ = conn.Close()
		}
	}()
	return "postgres://u:p@" + l.Addr().String() + "/d?sslmode=disable"
}

func flood(conn net.Conn) error {
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := b.Flush(); err != nil {
		return err
	}
	for {
		message, err := b.Receive()
		if err != nil {
			return err
		}
		if _, ok := message.(*pgproto3.Sync); ok {
			break
		}
	}
	b.Send(&pgproto3.ParseComplete{})
	b.Send(&pgproto3.BindComplete{})
	b.Send(&pgproto3.RowDescription{})
	if err := b.Flush(); err != nil {
		return err
	}
	row, err := (&pgproto3.DataRow{}).Encode(nil)
	if err != nil {
		return err
	}
	rows := bytes.Repeat(row, 100_000)
	for range 45 { // less than the bytes that a connection allows
		if _, err := conn.Write(rows); err != nil {
			return err
		}
	}
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := b.Flush(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	return err
}

// A server's rows are not kept while --slot-reset reads the ids: a row without a column has 7 bytes on the wire, and many times as many in memory.
func TestSequenceIDsOfAFlood(t *testing.T) {
	config, err := pgconn.ParseConfig(flooding(t))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ids := SequenceIDs(t.Context(), []DestinationSpec{{Tenant: "t", Name: "n", Connect: config}}, Options{ConnectTimeout: 10 * time.Second})
	runtime.ReadMemStats(&after)
	if len(ids) > 0 {
		t.Errorf("the ids are %v", ids)
	}
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 100 {
		t.Errorf("it took %d MiB", took)
	} else {
		t.Logf("it took %d MiB", took)
	}
}
