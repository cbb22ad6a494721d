package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink"
)

// gateOfKeys is the advisory lock that the keys of [world.gatedKeys] wait for.
const gateOfKeys = 42

// gatedKeys is the default mapping of channels, whose keys wait for an advisory lock after they have taken their snapshot.
func (w *world) gatedKeys() {
	w.tb.Helper()
	text, err := os.ReadFile("../../sql/mappings/contact_channels.yaml")
	must(w.tb, err)
	const keys = `FROM "contact_channels"` + "\n"
	if strings.Count(string(text), keys) != 1 {
		w.tb.Fatalf("the default mapping has changed: %s", text)
	}
	w.mapping("contact_channels", strings.Replace(string(text), keys,
		fmt.Sprintf(`FROM "contact_channels", (SELECT pg_advisory_xact_lock_shared(%d)) AS "gate"`+"\n", gateOfKeys), 1))
}

// atEachReading calls f whenever keys are read, after the reading has taken its snapshot, until over says so.
func atEachReading(t *testing.T, dsn string, over func() bool, f func()) (readings int) {
	t.Helper()
	gate := connect(t, dsn)
	for {
		exec(t, gate, `SELECT pg_advisory_lock($1)`, gateOfKeys)
		ended := false
		waitFor(t, "keys to be read", func() error {
			if ended = over(); ended {
				return nil
			}
			if n := query(t, dsn, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
				AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)[0]; n == `"0"` {
				return fmt.Errorf("nobody waits")
			}
			return nil
		})
		if !ended {
			f()
			readings++
		}
		exec(t, gate, `SELECT pg_advisory_unlock($1)`, gateOfKeys)
		if ended {
			return readings
		}
	}
}

// A channel is given to another user between the reading of the external database's keys and the snapshot that they are
// compared with. The delete step names the channel alone, so the delete of the old key would take the row away for good.
func TestKeysThatMoveDuringASweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(40, tenant1)
	w.exec(`DELETE FROM "ContactChannel" WHERE "projectUserId" > $1`, userID(20)) // who may have a primary channel of another one
	w.gatedKeys()
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	d, moved := r.destination("main"), 0
	must(t, d.Resync(t.Context(), "the test asked for it"))
	n := atEachReading(t, dsn, func() bool { return d.Status().State == sink.Streaming }, func() {
		moved++
		w.exec(`UPDATE "ContactChannel" SET "projectUserId" = $2 WHERE "projectUserId" = $1`, userID(moved), userID(moved+20))
	})
	if n == 0 || n > 20 {
		t.Fatalf("the keys were read %d times", n)
	}
	w.synced()
	w.equal(tenant1, dsn)
}

// The same between the keys of what differs and the repair of it.
func TestKeysThatMoveDuringARepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(40, tenant1)
	w.exec(`DELETE FROM "ContactChannel" WHERE "projectUserId" > $1`, userID(20)) // who may have a primary channel of another one
	w.gatedKeys()
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	db := connect(t, dsn)
	exec(t, db, `UPDATE contact_channels SET user_id = gen_random_uuid() WHERE user_id = ANY ($1::text[]::uuid[])`, []string{userID(1), userID(2), userID(3)})
	done := make(chan *verifyReport, 1)
	go func() {
		report, err := verify(context.Background(), w.cfg, verifyOptions{repair: true}, io.Discard)
		if err != nil {
			t.Error(err)
		}
		done <- report
	}()
	var report *verifyReport
	moved := 0
	atEachReading(t, dsn, func() bool {
		select {
		case report = <-done:
			return true
		default:
			return false
		}
	}, func() {
		moved++
		w.exec(`UPDATE "ContactChannel" SET "projectUserId" = $2 WHERE "projectUserId" = $1`, userID(moved), userID(moved+20))
		w.synced()
	})
	if moved == 0 {
		t.Fatal("the keys were never read")
	}
	t.Logf("the keys were read %d times: %+v", moved, report)
	w.synced()
	w.equal(tenant1, dsn)
}
