package replication

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/replication/primary"
)

func TestErrorsThatEndTheStream(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		says   string // "": connecting again can help
		relied bool
	}{
		"lost connection":              {errors.New("unexpected EOF"), "", false},
		"slot in use":                  {&pgconn.PgError{Code: "55006"}, "", false},
		"too many connections":         {&pgconn.PgError{Code: "53300"}, "", false},
		"slot gone":                    {&pgconn.PgError{Code: "42704", Message: `replication slot "s" does not exist`}, `replication slot "s" is gone`, false},
		"publication gone":             {&pgconn.PgError{Code: "42704", Message: `publication "p" does not exist`}, `publication "p" is gone`, true},
		"publication gone, from 18 on": {&publicationGone{`skipped loading publication "p"`}, `publication "p" is gone`, true},
		"publication gone, in German": {&pgconn.PgError{Code: "42704", Message: "Publikation »p« existiert nicht", Routine: "get_publication_oid"},
			`publication "p" is gone`, true},
		"slot gone, in German": {&pgconn.PgError{Code: "42704", Message: "Replikations-Slot »s« existiert nicht", Routine: "ReplicationSlotAcquire"},
			`replication slot "s" is gone`, false},
		"wal_level":      {&pgconn.PgError{Code: "55000", Message: `logical decoding requires "wal_level" >= "logical"`}, "wal_level on the primary", false},
		"slot lost":      {&pgconn.PgError{Code: "55000", Message: "cannot read from logical replication slot"}, "can no longer be read", false},
		"untranslatable": {&pgconn.PgError{Code: "22P05", Message: "character secret"}, "a character without a counterpart", false},
		"no right":       {&pgconn.PgError{Code: "42501", Message: "permission denied"}, `replication slot "s": `, false},
		"a problem":      {&primary.Problem{What: "the primary is another one", Remedy: "r"}, "the primary is another one", false},
	} {
		t.Run(name, func(t *testing.T) {
			wrapped := fmt.Errorf("reading: %w", c.err)
			if isFatal(wrapped) != (c.says != "") {
				t.Fatalf("fatal: %v", isFatal(wrapped))
			}
			if c.says == "" {
				return
			}
			told := explainStream("s", "p", wrapped)
			if !strings.Contains(told.Error(), c.says) || primary.Relied(told) != c.relied {
				t.Errorf("%v; relied %v", told, primary.Relied(told))
			}
		})
	}
}

// A session that silence has ended allows more silence to the next session, up to a bound.
func TestSilenceDoubles(t *testing.T) {
	r := &Reader{Patience: 30 * time.Second}
	for silent, want := range map[int]time.Duration{0: time.Minute, 1: 2 * time.Minute, 6: 64 * time.Minute, 100: 64 * time.Minute} {
		if r.silent = silent; r.silence(time.Minute) != want {
			t.Errorf("after %d: %s", silent, r.silence(time.Minute))
		}
	}
	if r.silent = 0; r.silence(0) != 0 || r.silence(time.Second) != 30*time.Second {
		t.Error("wal_sender_timeout 0 allows any silence, a short one no less than Patience")
	}
}
