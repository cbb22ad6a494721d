package main

import (
	"errors"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

// A table that somebody takes out of the publication is noticed, while running and at the next start; what was skipped
// meanwhile is copied. The same holds for the publication itself.
func TestPublicationChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.existing(50, tenant1)
	dsn := w.destination(tenant1, "main")
	file := w.configFile()
	for _, damage := range []string{`ALTER PUBLICATION outflow DROP TABLE "ContactChannel"`, `DROP PUBLICATION outflow`} {
		p := launch(t, "run", "--config", file)
		w.waitState(tenant1, "main", "streaming")
		w.exec(damage)
		w.exec(`UPDATE "ContactChannel" SET value = value || 'x'`)
		w.exec(`DELETE FROM "ContactChannel" WHERE "projectUserId"::text LIKE '%3'`)
		if _ = p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%s: exit code %d\n%s", damage, p.cmd.ProcessState.ExitCode(), p.out)
		}
		p.says("remedy: ")
		args := []string{"run", "--config", file}
		if damage == `DROP PUBLICATION outflow` {
			args = append(args, "--slot-reset", "--yes") // the slot cannot decode what was committed while there was none
		}
		p = launch(t, args...)
		waitFor(t, "the tables to be equal", func() error { return differs(w.diff(tenant1, dsn)) })
		if code := p.terminate(); code != 0 {
			t.Errorf("exit code %d\n%s", code, p.out)
		}
	}
}

func differs(diff string) error {
	if diff == "" {
		return nil
	}
	return errors.New(diff)
}
