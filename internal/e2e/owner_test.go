package e2e

import (
	"fmt"
	"strings"
	"testing"

	"outflow/internal/config"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// Two destinations of one tenant with one database, under two spellings of its address: the first keeps it, and the other is halted with the
// name of the first. The other one takes the database over when the first has left the configuration.
func TestTwoDestinationsOfOneDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(20, tenant1)
	dsn := w.destination(tenant1, "first", "contact_channels")
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	exec(t, connect(t, dsn), `ALTER TABLE _stack_sync_metadata DROP COLUMN destination`) // as an earlier version has left it
	r = w.start()
	d := r.destination("first")
	becomes(t, d, ledger.Streaming)
	waitFor(t, "the owner's name", func() error {
		if names := query(t, dsn, `SELECT DISTINCT to_jsonb(m) ->> 'destination' FROM _stack_sync_metadata m`); fmt.Sprint(names) != `["first"]` {
			return fmt.Errorf("%s", names)
		}
		return nil
	})
	if s := d.Status(); s.Copied != 0 && s.Batches != 0 {
		t.Errorf("the name alone had the database copied: %+v", s)
	}
	r.end()

	w.addDestination(tenant1, "second", strings.Replace(dsn, "127.0.0.1", "localhost", 1), "contact_channels", "users")
	r = w.start()
	contains(t, becomes(t, r.destination("second"), ledger.Halted), `that of destination "first"`, "remedy: give this destination a database of its own")
	w.exec(`UPDATE "ContactChannel" SET value = value || '.first'`)
	becomes(t, r.destination("first"), ledger.Streaming)
	channels := func() error {
		want, got := query(t, w.source, expectedChannels, tenant1), query(t, dsn, actualChannels)
		if fmt.Sprint(want) != fmt.Sprint(got) {
			return fmt.Errorf("%d rows, expected %d", len(got), len(want))
		}
		return nil
	}
	waitFor(t, "the first to get the changes", channels)
	r.end()

	w.cfg.Destinations.Static = append([]config.Static(nil), w.cfg.Destinations.Static[1:]...)
	w.exec(`UPDATE "ProjectUser" SET "displayName" = 'the second has the database'`)
	r = w.start()
	waitFor(t, "the second to take over", func() error {
		if s := r.destination("second").Status(); s.State != ledger.Streaming || s.Copied == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	r.caughtUp()
	w.synced()
	w.equal(tenant1, dsn)
}
