package e2e

import (
	"fmt"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// A database whose trigger undoes the metadata with every chunk is copied again, and not again and again without a pause.
func TestMetadataThatIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	r, on := w.lined()
	on()
	dsn := pgtest.Database(t, w.cluster)
	exec(t, connect(t, dsn), `CREATE TABLE _stack_sync_metadata (mapping_name text PRIMARY KEY, last_synced_sequence_id bigint NOT NULL DEFAULT -1,
			updated_at timestamp NOT NULL DEFAULT now());
		CREATE TABLE undone (at timestamptz DEFAULT clock_timestamp());
		CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO undone DEFAULT VALUES; DELETE FROM _stack_sync_metadata WHERE mapping_name = NEW.mapping_name; RETURN NULL;
		END $$;
		CREATE TRIGGER undo AFTER UPDATE OF last_synced_sequence_id ON _stack_sync_metadata FOR EACH ROW EXECUTE FUNCTION undo()`)
	w.writes(tenant1, "main", dsn, "items")
	r.has(1)
	waitFor(t, "copies again and again", func() error {
		if n := query(t, dsn, `SELECT count(*) > 5 FROM undone`)[0]; n != `"t"` {
			return fmt.Errorf("none")
		}
		return nil
	})
	took := query(t, dsn, `SELECT max(at) - min(at) > '3 s', max(at) - min(at) FROM (SELECT at FROM undone ORDER BY at LIMIT 6) u`)[0]
	if !strings.HasPrefix(took, `"t"`) {
		t.Errorf("six copies took %s", took)
	}
	contains(t, fmt.Sprint(r.destination("main").History()), "the metadata has changed")
}

// A tenant's number in the place of the epoch, or one from a time when the primary's clock was ahead, keeps a database from nothing.
func TestEpochOfNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(5, tenant1)
	dsn := w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	w.synced()
	r.end()
	for _, epoch := range []string{"9223372036854775807", "4000000000000000", "-9223372036854775808"} {
		exec(t, connect(t, dsn), `UPDATE _stack_sync_metadata SET epoch = `+epoch)
		exec(t, connect(t, dsn), `DELETE FROM users`)
		r = w.start()
		waitFor(t, "the copy", func() error {
			if s := r.destination("main").Status(); s.State != ledger.Streaming || w.diff(tenant1, dsn) != "" {
				return fmt.Errorf("with epoch %s it is %s: %w", epoch, s.State, s.Err)
			}
			return nil
		})
		r.end()
	}
}
