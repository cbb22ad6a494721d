package primary

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/wal"
	"outflow/sql"
)

// prepared is a primary with the schema outflow, a table, and a destination's row for each mapping.
type prepared struct {
	t     *testing.T
	conn  *pgx.Conn
	setup Setup
	slot  string
}

func newPrepared(t *testing.T) *prepared {
	t.Helper()
	server, err := New(pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.Migrate(t.Context(), server.Config()); err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := &prepared{t: t, conn: conn, slot: conn.Config().Database}
	p.exec(`CREATE TABLE public.items (tenant text, id int, v text, secret text, PRIMARY KEY (tenant, id))`)
	rule := TableRule{Schema: "public", Name: "items", Tenant: "tenant"}
	tables, err := Check(t.Context(), conn, []TableRule{rule})
	if err != nil {
		t.Fatal(err)
	}
	p.setup = Setup{Slot: Slot{Server: server, Name: p.slot}, Publication: Publication{Name: "outflow", Tables: []PublishedTable{rule.Publish(tables[0], []string{"v"})}}}
	t.Cleanup(func() {
		_, _ = conn.Exec(context.Background(), `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, p.slot)
		_ = conn.Close(context.Background())
	})
	return p
}

func (p *prepared) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.conn.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// destination notes a destination that streams.
func (p *prepared) destination(name, fingerprint string) {
	p.exec(`INSERT INTO outflow.destination_state (slot, tenant_id, name, state, fingerprint) VALUES ($1, 't', $2, 'streaming', $3)`, p.slot, name, fingerprint)
}

// states are the noted states and reasons by destination; the destinations stream again.
func (p *prepared) states() map[string]string {
	p.t.Helper()
	rows, err := p.conn.Query(p.t.Context(), `SELECT name, trim(state || ' ' || reason) FROM outflow.destination_state WHERE slot = $1`, p.slot)
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[string]string{}
	var name, state string
	if _, err := pgx.ForEachRow(rows, []any{&name, &state}, func() error { all[name] = state; return nil }); err != nil {
		p.t.Fatal(err)
	}
	p.exec(`UPDATE outflow.destination_state SET state = 'streaming', reason = '' WHERE slot = $1`, p.slot)
	return all
}

func (p *prepared) ensure() (Source, wal.LSN) {
	p.t.Helper()
	source, confirmed, err := p.setup.Ensure(p.t.Context(), p.conn)
	if err != nil {
		p.t.Fatal(err)
	}
	return source, confirmed
}

func TestEnsureIsSafeToRunAgain(t *testing.T) {
	t.Parallel()
	p := newPrepared(t)
	if _, err := p.setup.Slot.Known(t.Context(), p.conn); err == nil || !strings.Contains(err.Error(), "nothing has ever run") {
		t.Errorf("before the first run: %v", err)
	}
	done := func(want string) {
		t.Helper()
		statements, err := p.setup.Statements(t.Context(), p.conn)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, st := range statements {
			all = append(all, fmt.Sprint(st.Done))
		}
		if got := strings.Join(all, " "); got != want {
			t.Errorf("publication and slot are done: %s; expected %s", got, want)
		}
	}
	done("false false")
	source, confirmed := p.ensure()
	done("true true")
	again, same := p.ensure()
	if again.ID != source.ID || same != confirmed || confirmed == 0 || source.SystemID == "" || again.SequenceBase != 0 {
		t.Errorf("%+v at %s, then %+v at %s", source, confirmed, again, same)
	}
	rel := p.setup.Publication.Tables[0].Relation
	if !source.Knows(rel.OID) || source.Knows(1) || source.SequenceID(7) != 7 {
		t.Error("the source does not know its tables")
	}
	if err := errors.Join(source.Check(source.SystemID, source.Timeline), p.setup.Slot.Stray("outflow", rel), p.setup.Slot.Server.Swapped(rel)); err != nil {
		t.Error(err)
	}
	if err := source.Check(source.SystemID, source.Timeline+1); err == nil || !strings.Contains(err.Error(), "a standby was promoted") {
		t.Errorf("another timeline: %v", err)
	}
	status, err := p.setup.Slot.Status(t.Context(), p.conn)
	if err != nil || status.ConfirmedFlush != confirmed || status.Active || status.WALStatus != "reserved" || status.WALEnd < confirmed {
		t.Errorf("status %+v, %v", status, err)
	}
	for name, found := range map[string]Findings{"publication": p.setup.InspectPublication(t.Context(), p.conn), "slot": p.setup.Slot.Inspect(t.Context(), p.conn),
		"server": p.setup.Slot.Server.Inspect(t.Context(), p.conn)} {
		if len(found) == 0 || found.Failed() {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// What happened to publication and table between two looks decides who is copied again.
func TestGapsRaiseEpochs(t *testing.T) {
	t.Parallel()
	p := newPrepared(t)
	p.setup.Publication.Tables[0].Apart = []string{"other:1"}
	p.destination("reads", "items:1")
	p.destination("apart", "other:1")
	p.ensure()
	if diff := cmp.Diff(map[string]string{"reads": "streaming", "apart": "streaming"}, p.states()); diff != "" {
		t.Errorf("the first run has no gap (-expected +found):\n%s", diff)
	}
	for _, c := range []struct{ damage, reads, apart string }{
		{`INSERT INTO public.items VALUES ('t', 1, 'v')`, "streaming", "streaming"},
		{`ALTER TABLE public.items ALTER secret TYPE varchar`, "streaming", "streaming"},       // no mapping reads the column, and no row is written again
		{`ALTER TABLE public.items ALTER secret TYPE int USING 1`, "backfilling", "streaming"}, // writes all rows again
		{`ALTER PUBLICATION outflow SET (publish = 'insert')`, "backfilling", "backfilling"},
		{`DROP PUBLICATION outflow`, "backfilling", "backfilling"},
		{`ALTER PUBLICATION outflow DROP TABLE public.items`, "backfilling", "streaming"},
	} {
		p.exec(c.damage)
		p.ensure()
		states := p.states()
		reads, _, _ := strings.Cut(states["reads"], " ")
		apart, _, _ := strings.Cut(states["apart"], " ")
		if reads != c.reads || apart != c.apart {
			t.Errorf("%s: %v; expected %s, %s", c.damage, states, c.reads, c.apart)
		}
	}
	p.setup.Gap = "asked by a test"
	p.ensure()
	if got := p.states()["apart"]; got != "backfilling asked by a test" {
		t.Errorf("a gap of the caller: %s", got)
	}
}

// Changes of a table that was taken out of the configuration, and so out of the publication, are still in the stream: they are no reason to copy.
func TestFormerTablesAreNoStrays(t *testing.T) {
	t.Parallel()
	p := newPrepared(t)
	p.exec(`CREATE TABLE public.others (tenant text, id int, PRIMARY KEY (tenant, id)); CREATE TABLE public.never (LIKE public.others INCLUDING ALL)`)
	others, never := TableRule{Schema: "public", Name: "others", Tenant: "tenant"}, TableRule{Schema: "public", Name: "never", Tenant: "tenant"}
	tables, err := Check(t.Context(), p.conn, []TableRule{others, never})
	if err != nil {
		t.Fatal(err)
	}
	few := p.setup.Publication.Tables
	p.setup.Publication.Tables = append(slices.Clone(few), others.Publish(tables[0], nil))
	p.setup.Wider = func(excess, _ string) { t.Errorf("the publication of its owner has more: %s", excess) }
	p.ensure()
	p.setup.Publication.Tables = few
	for look := range 3 {
		source, _ := p.ensure()
		if look == 2 {
			if gap, err := p.setup.watchRelied(t.Context(), p.conn, source.relied, 0); err != nil || len(gap.reasons) > 0 {
				t.Errorf("the watch: %v, %v", &gap, err)
			}
		}
		if err := p.setup.Slot.Stray("outflow", tables[0].Relation); err != nil || source.Knows(tables[0].Relation.OID) {
			t.Errorf("look %d: %v", look, err)
		}
	}
	if err := p.setup.Slot.Stray("outflow", tables[1].Relation); !isGap(err) {
		t.Errorf("a table that was never published: %v", err)
	}
	p.setup.Publication.Tables = append(slices.Clone(few), others.Publish(tables[0], nil))
	if source, _ := p.ensure(); !source.Knows(tables[0].Relation.OID) || len(source.relied.Former) > 0 {
		t.Errorf("a table that is configured again is a former one: %v", source.relied.Former)
	}
}

func TestStopNotesOnceAndFences(t *testing.T) {
	t.Parallel()
	p := newPrepared(t)
	slot := p.setup.Slot
	cause := errors.New("a table has no key")
	p.destination("one", "")
	p.ensure()
	p.exec(`UPDATE outflow.source SET reading = 5 WHERE slot = $1`, p.slot)
	if err := slot.Stop(t.Context(), cause, 4); !errors.Is(err, ErrFenced) || p.states()["one"] != "streaming" {
		t.Errorf("a process whose reading is over: %v", err)
	}
	if err := slot.Stop(t.Context(), cause, 5); err != nil || p.states()["one"] != "backfilling "+Ended+cause.Error() {
		t.Errorf("the process that reads: %v", err)
	}
}

func TestResetBeginsBehindAllIDs(t *testing.T) {
	t.Parallel()
	p := newPrepared(t)
	slot := p.setup.Slot
	p.destination("one", "")
	source, _ := p.ensure()
	healthy := func(want bool) {
		t.Helper()
		if got, err := slot.Healthy(t.Context(), p.conn); err != nil || got != want {
			t.Errorf("healthy: %v, %v", got, err)
		}
	}
	healthy(true)
	p.exec(`SELECT pg_drop_replication_slot($1)`, p.slot)
	healthy(false)
	if _, _, err := p.setup.Ensure(t.Context(), p.conn); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("without the slot: %v", err)
	}
	if _, found, err := slot.Confirmed(t.Context()); found || err != nil {
		t.Errorf("without the slot: found %v, %v", found, err)
	}
	const highest = 1 << 41
	if err := p.setup.Reset(t.Context(), p.conn, []int64{highest, 1 << 62}); err != nil { // the second id is beyond the reach, and counts nothing
		t.Fatal(err)
	}
	healthy(true)
	if got := p.states()["one"]; got != "backfilling the slot was reset" {
		t.Errorf("after the reset: %s", got)
	}
	now, confirmed := p.ensure()
	if id := now.SequenceID(confirmed); now.ID != source.ID || id <= highest || id > highest+2*baseMargin {
		t.Errorf("the next id is %d, above %d; the base is %d", id, int64(highest), now.SequenceBase)
	}
	p.exec(`UPDATE outflow.source SET resetting = true WHERE slot = $1`, p.slot) // killed in the middle
	healthy(false)
	if _, _, err := p.setup.Ensure(t.Context(), p.conn); err == nil || !strings.Contains(err.Error(), "begun and not finished") {
		t.Errorf("a reset that was not finished: %v", err)
	}
	if err := p.setup.Reset(t.Context(), p.conn, nil); err != nil {
		t.Fatal(err)
	}
	healthy(true)
}

func TestSlotThatOutflowCannotRead(t *testing.T) {
	t.Parallel()
	p := newPrepared(t)
	p.exec(`SELECT pg_create_physical_replication_slot($1)`, p.slot)
	problem := p.setup.Slot.Lost(t.Context())
	if problem == nil || !strings.Contains(problem.Error(), "is not a pgoutput slot") {
		t.Errorf("a physical slot: %v", problem)
	}
	for reason, says := range map[string]string{"": "removed WAL", "wal_removed": "removed WAL", "idle_timeout": "idle_replication_slot_timeout",
		"wal_level_insufficient": "wal_level", "other": "the reason other"} {
		if told := slotLost("s", reason); !strings.Contains(told.Error(), says) || !strings.Contains(told.Remedy, ResetCommand) {
			t.Errorf("%q: %v", reason, told)
		}
	}
}
