package faultproxy_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// setup makes a database, a proxy to it, and a function that connects through the proxy.
func setup(t *testing.T) (p *faultproxy.Proxy, direct string, connect func() *pgx.Conn) {
	t.Helper()
	c := pgtest.Shared(t)
	direct = pgtest.Database(t, c)
	p, err := faultproxy.New(c.Addr())
	ok(t, err)
	t.Cleanup(func() { ok(t, p.Close()) })
	return p, direct, func() *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), p.DSN(direct))
		ok(t, err)
		t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // most tests break it
		return conn
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func query(ctx context.Context, conn *pgx.Conn, sql string) (got string, err error) {
	err = conn.QueryRow(ctx, sql).Scan(&got)
	return got, err
}

func TestPassesOn(t *testing.T) {
	p, direct, connect := setup(t)
	conn := connect()
	big, err := query(t.Context(), conn, "SELECT repeat('x', 1000000)")
	if err != nil || len(big) != 1000000 {
		t.Fatalf("%d bytes, %v", len(big), err)
	}
	if p.Open() != 1 {
		t.Errorf("%d connections are open, want 1", p.Open())
	}
	ok(t, conn.Close(t.Context()))
	for p.Open() != 0 {
		ok(t, t.Context().Err())
	}

	config, err := pgx.ParseConfig(direct)
	ok(t, err)
	keywords := p.DSN("host=nowhere.invalid port=1 sslmode=disable user=postgres dbname=" + config.Database)
	conn, err = pgx.Connect(t.Context(), keywords)
	ok(t, err)
	ok(t, conn.Close(t.Context()))
	if got := p.DSN("postgres://u:p@h:1/d?host=other&port=2&sslmode=require"); got != "postgres://u:p@"+p.Addr()+"/d?sslmode=require" {
		t.Errorf("the DSN is %s", got)
	}
}

func TestRefuseAndCut(t *testing.T) {
	p, direct, connect := setup(t)
	conn := connect()
	p.Refuse(true)
	if _, err := pgx.Connect(t.Context(), p.DSN(direct)); err == nil {
		t.Error("connected while refusing")
	}
	_, err := query(t.Context(), conn, "SELECT 'still here'")
	ok(t, err)
	p.Refuse(false)
	other := connect()

	p.Cut()
	for _, conn := range []*pgx.Conn{conn, other} {
		if _, err := query(t.Context(), conn, "SELECT 'cut'"); err == nil {
			t.Error("a connection outlived Cut")
		}
	}
	_, err = query(t.Context(), connect(), "SELECT 'back'")
	ok(t, err)
}

func TestCutAfterQuery(t *testing.T) {
	ways := map[string]func(ctx context.Context, conn *pgx.Conn) error{
		"simple": func(ctx context.Context, conn *pgx.Conn) error {
			tx, err := conn.Begin(ctx)
			if err == nil {
				_, err = tx.Exec(ctx, "INSERT INTO t VALUES (1)")
			}
			return errors.Join(err, tx.Commit(ctx))
		},
		"pipelined": func(ctx context.Context, conn *pgx.Conn) error {
			batch := &pgconn.Batch{} // not pgx's: that would send the texts in a round trip of their own, to prepare them
			batch.ExecParams("BEGIN", nil, nil, nil, nil)
			batch.ExecParams("INSERT INTO t SELECT length($1)", [][]byte{bytes.Repeat([]byte("x"), 100_000)}, nil, nil, nil)
			batch.ExecParams("COMMIT", nil, nil, nil, nil)
			return conn.PgConn().ExecBatch(ctx, batch).Close()
		},
	}
	for name, insert := range ways {
		for _, slice := range []int{0, 3} {
			t.Run(name, func(t *testing.T) {
				p, direct, connect := setup(t)
				watcher, err := pgx.Connect(t.Context(), direct)
				ok(t, err)
				defer watcher.Close(t.Context())
				_, err = watcher.Exec(t.Context(), "CREATE TABLE t (i int)")
				ok(t, err)

				conn, bystander := connect(), connect()
				p.Slice(slice)
				fired := p.CutAfterQuery("commit")
				_, err = query(t.Context(), bystander, "SELECT 'nothing to match'")
				ok(t, err)
				err = insert(t.Context(), conn)
				var answer *pgconn.PgError
				if err == nil || errors.As(err, &answer) {
					t.Errorf("the client got an answer: %v", err)
				}
				<-fired
				deadline := time.Now().Add(20 * time.Second)
				for n := "0"; n != "1"; { // the server may still be at it
					if n, err = query(t.Context(), watcher, "SELECT count(*)::text FROM t, pg_sleep(0.01)"); err == nil && time.Now().After(deadline) {
						t.Fatalf("the server did not carry the request out: %s rows", n)
					}
					ok(t, err)
				}
				_, err = bystander.Exec(t.Context(), "BEGIN; COMMIT") // it fires once
				ok(t, err)
			})
		}
	}
}

func TestCutAfterQueryTakenAway(t *testing.T) {
	p, _, connect := setup(t)
	conn := connect()
	first := p.CutAfterQuery("select")
	p.CutAfterQuery("")
	_, err := query(t.Context(), conn, "SELECT 'passes'")
	ok(t, err)
	select {
	case <-first:
		t.Error("it fired after it was taken away")
	default:
	}
}

func TestCutAfterBytes(t *testing.T) {
	p, _, connect := setup(t)
	old := connect()
	p.CutAfterBytes(100_000)
	conn := connect()
	if _, err := query(t.Context(), conn, "SELECT repeat('x', 50000)"); err != nil {
		t.Fatalf("below the limit: %v", err)
	}
	if got, err := query(t.Context(), conn, "SELECT repeat('x', 60000)"); err == nil {
		t.Errorf("above the limit it gives %d bytes", len(got))
	}
	p.CutAfterBytes(0)
	if _, err := query(t.Context(), old, "SELECT repeat('x', 200000)"); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

func TestStall(t *testing.T) {
	p, _, connect := setup(t)
	conn := connect()
	p.Stall(true)
	p.Stall(true)
	answer := make(chan error, 1)
	go func() {
		_, err := query(context.WithoutCancel(t.Context()), conn, "SELECT 'late'")
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("an answer through a stall: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	p.Stall(false)
	p.Stall(false)
	ok(t, <-answer)

	p.Stall(true) // left so: Close must end it
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := query(ctx, conn, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an answer through a stall: %v", err)
	}
}

func TestSlowWires(t *testing.T) {
	const size = 20_000
	for name, test := range map[string]struct {
		slow    func(*faultproxy.Proxy)
		atLeast time.Duration
	}{
		"delay":     {func(p *faultproxy.Proxy) { p.Delay(50 * time.Millisecond) }, 100 * time.Millisecond}, // there and back
		"bandwidth": {func(p *faultproxy.Proxy) { p.Bandwidth(100_000) }, 140 * time.Millisecond},
		"slice":     {func(p *faultproxy.Proxy) { p.Slice(1) }, 0},
		"all": {func(p *faultproxy.Proxy) {
			p.Delay(time.Millisecond)
			p.Bandwidth(200_000)
			p.Slice(500)
		}, 80 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			p, _, connect := setup(t)
			conn := connect()
			test.slow(p)
			began := time.Now()
			got, err := query(t.Context(), conn, "SELECT repeat('y', 20000)")
			if err != nil || got != strings.Repeat("y", size) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if took := time.Since(began); took < test.atLeast {
				t.Errorf("it took %v, want at least %v", took, test.atLeast)
			}
		})
	}
}

func TestDeadTarget(t *testing.T) {
	p, err := faultproxy.New("127.0.0.1:1")
	ok(t, err)
	if _, err := pgx.Connect(t.Context(), p.DSN("postgres://postgres@h/x?sslmode=disable")); err == nil {
		t.Error("connected to nobody")
	}
	ok(t, p.Close())
	ok(t, p.Close())
}

// Faults change while connections come, go and are cut; nothing may hang, race or be left.
func TestEverythingAtOnce(t *testing.T) {
	p, direct, _ := setup(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if conn, err := pgx.Connect(ctx, p.DSN(direct)); err == nil {
					_, _ = query(ctx, conn, "SELECT 'COMMIT'")
					_ = conn.Close(ctx)
				}
			}
		})
	}
	for i := 0; ctx.Err() == nil; i++ {
		p.Refuse(i%7 == 0)
		p.Stall(i%5 == 0)
		p.Slice(i % 11)
		p.Bandwidth(i % 3 * 1_000_000)
		p.CutAfterQuery("commit")
		if i%13 == 0 {
			p.Cut()
		}
	}
	p.Stall(true)
	ok(t, p.Close())
	wg.Wait()
}
