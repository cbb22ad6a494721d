package e2e

import (
	"fmt"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

// A tenant's number in its own metadata moves its own destination only, also at a reset of the slot, which reads the numbers of all.
func TestAbsurdSequenceIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.exec(`CREATE TABLE item (tenant uuid, id int, note text, PRIMARY KEY (tenant, id))`)
	w.table("item", 1, "id int", "note text")
	changes := map[string]string{
		"good": `SELECT`,
		"most": `UPDATE _stack_sync_metadata SET last_synced_sequence_id = 9223372036854775807`,
		"some": `UPDATE _stack_sync_metadata SET last_synced_sequence_id = 1::bigint << 61`,
		"less": `UPDATE _stack_sync_metadata SET last_synced_sequence_id = -9223372036854775808`,
		"null": `ALTER TABLE _stack_sync_metadata ALTER last_synced_sequence_id DROP NOT NULL; UPDATE _stack_sync_metadata SET last_synced_sequence_id = NULL`,
		"text": `ALTER TABLE _stack_sync_metadata ALTER last_synced_sequence_id DROP DEFAULT, ALTER last_synced_sequence_id TYPE text USING 'absurd'`,
	}
	dsns := map[string]string{}
	for name := range changes {
		dsns[name] = w.destination(tenant1, name, "item")
	}
	r := w.start()
	r.caughtUp()
	insert := func(n int) { w.exec(`INSERT INTO item VALUES ($1, $2, 'x')`, tenant1, n) }
	insert(1)
	w.synced()
	r.end()
	for n := range 2 {
		for name, change := range changes {
			if name == "text" && n > 0 {
				continue
			}
			exec(t, connect(t, dsns[name]), change)
		}
		p := launch(t, "run", "--config", w.configFile(), "--slot-reset", "--yes")
		p.says("the slot was reset")
		insert(2 + n)
		for name, dsn := range dsns {
			want := "streaming"
			if name == "null" || name == "text" {
				want = "halted"
			}
			w.waitState(tenant1, name, want)
			if want == "streaming" {
				waitFor(t, "the rows of "+name, func() error {
					if got := query(t, dsn, `SELECT count(*) FROM item_copy`)[0]; got != fmt.Sprintf("%q", fmt.Sprint(2+n)) {
						return fmt.Errorf("there are %s", got)
					}
					return nil
				})
				w.mirrored(tenant1, dsn, "item", "id, note")
			}
		}
		same(t, w.source, `SELECT sequence_base BETWEEN 0 AND 1::bigint << 50, (SELECT max(last_sequence_id) < 1::bigint << 50 FROM outflow.destination_state) FROM outflow.source`, `"t"|"t"`)
		if code := p.terminate(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
