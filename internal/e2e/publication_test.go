package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/pipeline"
	"outflow/internal/secret"
	"outflow/replication/primary"
)

// A table that somebody takes out of the publication is put back, and what was skipped meanwhile is copied. A publication that is dropped
// ends the process: the slot cannot decode what was committed while there was none.
func TestPublicationChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(50, tenant1)
	dsn := w.destination(tenant1, "main")
	file := w.configFile()
	p := launch(t, "run", "--config", file)
	w.waitState(tenant1, "main", "streaming")
	change := func() {
		t.Helper()
		w.exec(`UPDATE "ContactChannel" SET value = value || 'x'`)
		w.exec(`DELETE FROM "ContactChannel" WHERE "projectUserId"::text LIKE '%3'`)
	}
	w.exec(`ALTER PUBLICATION outflow DROP TABLE "ContactChannel"`)
	change()
	waitFor(t, "the tables to be equal", func() error { return differs(w.diff(tenant1, dsn)) })
	w.waitState(tenant1, "main", "streaming")

	w.exec(`DROP PUBLICATION outflow`)
	change()
	p.fails(1, "remedy: ", "outflow run --slot-reset")
	p = launch(t, "run", "--config", file, "--slot-reset", "--yes")
	waitFor(t, "the tables to be equal", func() error { return differs(w.diff(tenant1, dsn)) })
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.out)
	}
}

func differs(diff string) error {
	if diff == "" {
		return nil
	}
	return errors.New(diff)
}

// A table and a mapping are taken out of the configuration: what the stream still has of them is skipped and counted, and no database is copied
// again. A role that may not alter the publication is told that the publication has more, at each start, and goes on.
func TestTablesTakenOutOfTheConfiguration(t *testing.T) {
	t.Parallel()
	for name, owner := range map[string]bool{"by the owner": true, "by the role of init": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newItems(t, pgtest.Shared(t), "")
			w.exec(`ALTER TABLE items ADD w text`)
			w.exec(`CREATE TABLE others (tenant text, id int, note text, PRIMARY KEY (tenant, id))`)
			few := *w.cfg
			w.mapping("wide", strings.NewReplacer("name: items", "name: wide", "items_copy", "wide_copy").Replace(mirror("items", 1, "id int", "w text")))
			w.table("others", 1, "id int", "note text")
			w.cfg.Destinations.Static = slices.Clone(few.Destinations.Static)
			w.cfg.Destinations.Static[0].Mappings = []string{"items", "wide", "others"}
			if !owner {
				role := w.newRole()
				w.init(role, true)
				w.cfg.Source.DSN = secret.New(w.as(role))
				few.Source.DSN = w.cfg.Source.DSN
			}
			r := w.start()
			w.exec(`INSERT INTO others VALUES ('t1', 1, 'x')`)
			w.synced()
			r.end()
			before := w.epoch("t1", "one") + " " + w.epoch("t2", "two")
			w.exec(`INSERT INTO others VALUES ('t1', 2, 'y'), ('t2', 3, 'z')`)
			w.exec(`UPDATE items SET v = 'after', w = 'w' WHERE id < 3`)
			*w.cfg = few
			r = w.start()
			w.synced()
			w.equal()
			tables := r.Router.TableStatus()
			if last := tables[len(tables)-1]; last.Table != "public.others" || last.Skipped != 2 {
				t.Errorf("%+v; expected two changes of others that were skipped", tables)
			}
			r.end()
			if after := w.epoch("t1", "one") + " " + w.epoch("t2", "two"); after != before {
				t.Errorf("epochs were %s, and are %s: destinations were copied again", before, after)
			}
			found := w.checked(pipeline.Selection{})
			p := launch(t, "run", "--config", w.configFile())
			w.exec(`UPDATE items SET v = 'last'`)
			w.equal()
			if !owner {
				p.says("the publication has more than is configured")
				if w.version() >= 15 { // before 15 a publication has no lists of columns
					found.says(t, "primary", primary.Warning, `publication "outflow"`, "column w of public.items", `ALTER PUBLICATION "outflow" SET TABLE`)
				}
				found.says(t, "primary", primary.Warning, `publication "outflow"`, "table public.others", "")
			}
			if code := p.terminate(); code != 0 {
				t.Errorf("exit code %d\n%s", code, p.out)
			}
		})
	}
}
