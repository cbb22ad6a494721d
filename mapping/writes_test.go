package mapping

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrites(t *testing.T) {
	for sql, want := range map[string][]string{
		`INSERT INTO "Users" (id) SELECT id FROM "A" ON CONFLICT (id) DO UPDATE SET id = excluded.id`:        {"Users"},
		`UPDATE ONLY users t SET a = 1 FROM "A"`:                                                             {"users"},
		`DELETE FROM Users t USING "A" a WHERE t.id = a.id`:                                                  {"users"},
		`DELETE FROM public.users`:                                                                           nil,
		`MERGE INTO users t USING "A" a ON t.id = a.id WHEN MATCHED THEN UPDATE SET x = 1`:                   {"users"},
		`WITH gone AS (DELETE FROM one RETURNING id) INSERT INTO two SELECT id FROM gone`:                    {"one", "two"},
		`WITH l AS (SELECT 1 FROM other FOR UPDATE OF other) INSERT INTO two SELECT 'update three' FROM "A"`: {"two"},
	} {
		tokens, err := lex(sql)
		if err != nil {
			t.Fatal(err)
		}
		m := &Mapping{Steps: []Step{{tokens: tokens, writes: writes(tokens)}}}
		if diff := cmp.Diff(want, m.Writes()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
	}
}

func TestStepWrites(t *testing.T) {
	for sql, want := range map[string][]Write{
		`DELETE FROM app."Users" t USING "A" a WHERE t.id = a.id`:                         {{Schema: "app", Table: "Users", Deletes: true}},
		`WITH gone AS (DELETE FROM one RETURNING id) INSERT INTO two SELECT id FROM gone`: {{Table: "one", Deletes: true}, {Table: "two"}},
		`UPDATE users t SET deleted = true FROM "A" a WHERE t.id = a.id`:                  {{Table: "users"}},
	} {
		tokens, err := lex(sql)
		if err != nil {
			t.Fatal(err)
		}
		m := &Mapping{Steps: []Step{{tokens: tokens, writes: writes(tokens)}}}
		if diff := cmp.Diff(want, m.StepWrites(0)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", sql, diff)
		}
		if got := m.Removes(0); got != (len(want) == 1 && want[0].Deletes) {
			t.Errorf("%s: only deletes: %t", sql, got)
		}
	}
}
