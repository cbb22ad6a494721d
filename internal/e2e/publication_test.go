package e2e

import (
	"errors"
	"testing"

	"outflow/internal/pgcluster/pgtest"
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
