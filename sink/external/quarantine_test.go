package external

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"outflow/internal/pgcluster/pgtest"
)

// A row set aside has the key, and the columns that the mappings name: nothing else leaves the primary.
func TestQuarantinedRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	if !s.HasQuarantine(t.Context()) {
		t.Fatal("there is no quarantine")
	}
	wide := relation(1, "item", "tenant text", "id integer", "v text", "secret text")
	q := Quarantined{Relation: wide, Op: "upsert", Row: row(tenant, 5, nil, "hidden").Tuple, SequenceID: 20, Err: &Error{Mapping: "items", SQLState: "23514", Err: errTest}}
	w.must(s.Begin(t.Context()))
	w.must(s.Quarantine(t.Context(), q))
	w.must(s.Commit(t.Context()))
	_, err := s.Exchange(t.Context(), func(_ context.Context, r *Round) error {
		if err := r.Begin(); err != nil {
			return err
		}
		q.Op, q.Row = "delete", row(tenant, 6, "v", "hidden").Tuple
		if err := r.Quarantine(&q); err != nil {
			return err
		}
		return r.Advance(w.every(), 20, "")
	})
	w.must(err)
	w.has(`SELECT source_table, operation, "row", sequence_id, mapping_name, sqlstate, message FROM _stack_sync_quarantine ORDER BY id`,
		`item|upsert|{"v": null, "id": "5", "tenant": "t1"}|20|items|23514|test`, `item|delete|{"v": "v", "id": "6", "tenant": "t1"}|20|items|23514|test`)
}

// Any server takes the row, whatever its encoding and whatever the values.
func TestQuarantineOfAnyText(t *testing.T) {
	t.Parallel()
	cluster := pgtest.Shared(t)
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			name := fmt.Sprintf("%s_%s", strings.ToLower(encoding), w.db.Config.Database)
			if len(name) > 63 {
				name = name[:63]
			}
			w.exec(fmt.Sprintf(`CREATE DATABASE %s ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`, QuoteIdentifier(name), encoding))
			t.Cleanup(func() { _ = cluster.DropDatabase(context.Background(), name) })
			w.db = w.database(strings.Replace(w.dsn, w.db.Config.Database, name, 1), itemsYAML)
			s := w.ready()
			defer s.Close()
			for _, text := range []string{"plain", "日本", "back\\slash", "byte\xff", "é", "line\nbreak"} {
				q := Quarantined{Relation: item, Op: "upsert", Row: row(tenant, 1, text).Tuple, SequenceID: 1, Err: &Error{Mapping: "items", SQLState: "22P05", Err: fmt.Errorf("%s", text)}}
				w.must(s.Begin(t.Context()))
				if err := s.Quarantine(t.Context(), q); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				answer, err := s.AskRow(t.Context(), 1, `SELECT "row" FROM _stack_sync_quarantine ORDER BY id DESC LIMIT 1`)
				w.must(err)
				w.must(s.Commit(t.Context()))
				var got struct {
					V       string   `json:"v"`
					Escaped []string `json:"_escaped"`
				}
				w.must(json.Unmarshal(answer[0], &got))
				want, escaped := plain(text, true)
				if got.V != want || (len(got.Escaped) > 0) != escaped {
					t.Errorf("%q is kept as %q, escaped: %v", text, got.V, got.Escaped)
				}
			}
		})
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text         string
		ascii        bool
		want         string
		wantsEscapes bool
	}{
		{"plain", true, "plain", false}, {"日本", false, "日本", false}, {"日本", true, `\u65e5\u672c`, true}, {"a\xff", false, `a\xff`, true},
		{"back\\slash", true, "back\\slash", false}, {"back\\slash\xff", false, `back\\slash\xff`, true}, {"a\nb", true, "a\nb", false}, {"", true, "", false},
	} {
		text, escaped := plain(test.text, test.ascii)
		if diff := cmp.Diff(test.want, text); diff != "" || escaped != test.wantsEscapes {
			t.Errorf("%q, ASCII only: %v: escaped: %v (-expected +found):\n%s", test.text, test.ascii, escaped, diff)
		}
	}
}
