package external

import (
	"strings"
	"testing"

	"outflow/mapping"
)

// A database is read as it is found: without a table, with the table of an older system, with Outflow's.
func TestMetadata(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.dial()
	known, err := s.Metadata(t.Context())
	if known != nil || err != nil {
		t.Errorf("without a table: %v, %v", known, err)
	}
	w.exec(`CREATE TABLE _stack_sync_metadata (mapping_name text PRIMARY KEY, last_synced_sequence_id bigint NOT NULL DEFAULT -1, updated_at timestamp NOT NULL DEFAULT now());
		INSERT INTO _stack_sync_metadata VALUES ('items', 500)`)
	known, err = s.Metadata(t.Context())
	if known != nil || err != nil {
		t.Errorf("with an older system's table: %v, %v", known, err)
	}
	w.must(s.Begin(t.Context()))
	w.must(s.CreateMetadata(t.Context()))
	w.must(s.Adopt(t.Context()))
	w.must(s.Commit(t.Context()))
	known, err = s.Metadata(t.Context())
	w.must(err)
	if m := known["items"]; m.SequenceID != -1 || m.Tenant != tenant || m.Source != "source" || m.Fingerprint != "" || m.Epoch != 0 || m.Written.IsZero() {
		t.Errorf("adopted: %+v", m)
	}
	if known.Owned("main") {
		t.Error("owned, before the name is written")
	}
	w.must(s.Own(t.Context()))
	known, err = s.Metadata(t.Context())
	w.must(err)
	if !known.Owned("main") || known.Owned("other") {
		t.Errorf("owned by main: %v, by another: %v", known.Owned("main"), known.Owned("other"))
	}
}

// A database of another tenant or of another source is refused, whatever row says so.
func TestMetadataOfAnotherOwner(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"tenant":          `UPDATE _stack_sync_metadata SET tenant = 't2'`,
		"source":          `UPDATE _stack_sync_metadata SET source = 'other'`,
		"another mapping": `INSERT INTO _stack_sync_metadata (mapping_name, tenant, source) VALUES ('x', 't2', 'source')`,
		"among many": `INSERT INTO _stack_sync_metadata (mapping_name, tenant, source, last_synced_sequence_id)
			SELECT 'x' || n, 't1', 'source', n FROM generate_series(1, 5000) AS n; UPDATE _stack_sync_metadata SET source = 'other' WHERE mapping_name = 'x7'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			s := w.ready()
			w.exec(change)
			_, err := s.Metadata(t.Context())
			w.failed(err, NeedsHuman, "the database holds the rows of tenant", "the rows of two tenants would mix", "empty this database")
		})
	}
	e := RefuseDestination("second")
	if e.Verdict != NeedsHuman || !strings.Contains(e.Error(), `destination "second" of the same tenant`) {
		t.Errorf("%v", e)
	}
}

// The tenant may write anything into the table: what is read is bounded, and what cannot be read is an error with a remedy.
func TestMetadataOfATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, itemsYAML)
	s := w.ready()
	w.exec(`UPDATE _stack_sync_metadata SET backfill = to_jsonb(repeat('x', 300000)), mark = repeat('m', 5000), fingerprint = repeat('f', 5000)`)
	known, err := s.Metadata(t.Context())
	w.must(err)
	m := known["items"]
	if !m.CursorTooLarge || len(m.Backfill) > 100 || len(m.CheckpointID) != 1024 || len(m.Fingerprint) != 1024 {
		t.Errorf("too large: %v; %d bytes of the cursor, %d of the checkpoint, %d of the fingerprint", m.CursorTooLarge, len(m.Backfill), len(m.CheckpointID), len(m.Fingerprint))
	}
	if e := RefuseCursor("items"); e.Verdict != NeedsHuman || !strings.Contains(e.Remedy, "resync") {
		t.Errorf("%v", e)
	}
	w.exec(`INSERT INTO _stack_sync_metadata (mapping_name, tenant, source, last_synced_sequence_id, backfill)
		SELECT 'x' || n, 't1', 'source', n, to_jsonb(repeat('x', 10000)) FROM generate_series(1, 3000) AS n`)
	known, err = s.Metadata(t.Context())
	w.must(err)
	if len(known) != 2 || known["x3000"].SequenceID != 3000 {
		t.Errorf("%d rows are read, of the others the row with the highest id: %v", len(known), known["x3000"].SequenceID)
	}
	w.exec(`UPDATE _stack_sync_metadata SET updated_at = 'infinity', backfill = NULL`)
	_, err = s.Metadata(t.Context())
	w.must(err)
	w.exec(`ALTER TABLE _stack_sync_metadata ALTER last_synced_sequence_id DROP DEFAULT, ALTER last_synced_sequence_id TYPE text USING 'many'`)
	_, err = s.Metadata(t.Context())
	if err == nil {
		t.Fatal("ids that are no numbers are read")
	}
	w.exec(`DROP TABLE _stack_sync_metadata; CREATE VIEW _stack_sync_metadata AS SELECT 'items'::text AS mapping_name, 'many'::text AS last_synced_sequence_id,
		''::text AS fingerprint, 't1'::text AS tenant, 'source'::text AS source, 7::bigint AS epoch, NULL::jsonb AS backfill, ''::text AS mark, now()::timestamp AS updated_at`)
	_, err = s.Metadata(t.Context())
	w.failed(err, NeedsHuman)
}

// A mapping is filled from an id that the mapping has for certain; a higher id of this installation stays, any other goes.
func TestFill(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before string // the id in the table; "" is no row
		fill   Fill
		want   string
	}{
		"new":                        {"", Fill{Epoch: 7, Cursor: `{}`, Least: -1, Given: 1000}, "-1"},
		"new, with a note":           {"", Fill{Epoch: 7, Cursor: `{}`, Least: 10, Given: 1000}, "10"},
		"behind the note":            {"5", Fill{Epoch: 8, Cursor: `{}`, Least: 10, Given: 1000}, "10"},
		"before the note":            {"20", Fill{Epoch: 8, Cursor: `{}`, Least: 10, Given: 1000}, "20"},
		"higher than what was given": {"2000", Fill{Epoch: 8, Cursor: `{}`, Least: 10, Given: 1000}, "10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, itemsYAML)
			s := w.dial()
			w.must(s.Begin(t.Context()))
			w.must(s.CreateMetadata(t.Context()))
			w.must(s.Commit(t.Context()))
			if test.before != "" {
				w.exec(`INSERT INTO _stack_sync_metadata (mapping_name, tenant, source, last_synced_sequence_id, backfill) VALUES ('items', 't1', 'source', ` + test.before + `, '{"phase": "sweep"}'),
					('other', 't1', 'source', 1, '{"phase": "sweep"}')`)
			}
			w.must(s.Fill(t.Context(), w.db.Mappings[0], test.fill))
			w.has(`SELECT last_synced_sequence_id, backfill, epoch FROM _stack_sync_metadata WHERE mapping_name = 'items'`, test.want+"|{}|"+map[int64]string{7: "7", 8: "8"}[test.fill.Epoch])
			if test.before != "" { // not a mapping of this database
				w.has(`SELECT backfill FROM _stack_sync_metadata WHERE mapping_name = 'other'`, `{"phase": "sweep"}`)
			}
		})
	}
}

// A schema that fails has its place in the mapping's file and a remedy; a schema that ends its transaction is refused.
func TestRunSchema(t *testing.T) {
	t.Parallel()
	with := func(schema string) string {
		return strings.Replace(itemsYAML, "CREATE TABLE IF NOT EXISTS items", schema, 1)
	}
	w := newWorld(t, with("CREATE TABL items"))
	s := w.dial()
	w.must(s.Begin(t.Context()))
	e := w.failed(s.RunSchema(t.Context(), w.db.Mappings[0]), NeedsHuman, "mapping items", "m.yaml:4", "syntax error")
	if file, line, _, ok := e.Place(); !ok || file != "m.yaml" || line != 4 {
		t.Errorf("the place is %s:%d", file, line)
	}
	s.Rollback()

	w.exec(`REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE TABLE mine (id int)`)
	w.must(s.Begin(t.Context()))
	e = w.failed(s.RunSchema(t.Context(), load(t, with("INSERT INTO mine VALUES (1 / 0); CREATE TABLE IF NOT EXISTS items"))), NeedsHuman) // no row is at fault
	if e.SQLState != "22012" {
		t.Errorf("SQLSTATE %s", e.SQLState)
	}
	s.Rollback()
}

func TestLowest(t *testing.T) {
	t.Parallel()
	a, b := &mapping.Mapping{Name: "a"}, &mapping.Mapping{Name: "b"}
	known := Metadata{"a": {SequenceID: 5}, "b": {SequenceID: 3}, "c": {SequenceID: 1}}
	for want, mappings := range map[int64][]*mapping.Mapping{5: {a}, 3: {a, b}, 0: {a, {Name: "unknown"}}, -1: nil} {
		if got := known.Lowest(mappings); got != want {
			t.Errorf("%d mappings: %d, expected %d", len(mappings), got, want)
		}
	}
	if Metadata(nil).Owned("main") {
		t.Error("a database without metadata is owned")
	}
	if !(Metadata{"a": {Source: "s", Destination: "main"}, "b": {}}).Owned("main") {
		t.Error("a row that is not Outflow's counts")
	}
	if (Metadata{"a": {Source: "s", Destination: "main"}, "b": {Source: "s"}}).Owned("main") {
		t.Error("a row without a name does not count")
	}
}
