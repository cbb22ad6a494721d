package ledger

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
	"outflow/replication/wal"
	"outflow/sql"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// testPrimary is a database with the schema outflow, and with the row of a slot in outflow.source.
type testPrimary struct {
	t      *testing.T
	config *pgx.ConnConfig
	conn   *pgx.Conn
}

func newPrimary(t *testing.T) *testPrimary {
	t.Helper()
	config, err := pgx.ParseConfig(pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.Migrate(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	p := &testPrimary{t: t, config: config}
	if p.conn, err = p.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close(context.Background()) })
	p.exec(`INSERT INTO outflow.source (slot, system_identifier, timeline) VALUES ('one', '1', 1), ('two', '1', 1)`)
	return p
}

func (p *testPrimary) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, p.config)
}

func (p *testPrimary) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.conn.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatal(err)
	}
}

// text is a single value of a query.
func (p *testPrimary) text(sql string, args ...any) (text string) {
	p.t.Helper()
	if err := p.conn.QueryRow(p.t.Context(), sql, args...).Scan(&text); err != nil {
		p.t.Fatal(err)
	}
	return text
}

// store is a process' store, for the slot "one".
func (p *testPrimary) store() *Store {
	s := &Store{Slot: "one", Connect: p.connect}
	p.t.Cleanup(s.Close)
	return s
}

// reader is the store of a process that has begun to read the slot.
func (p *testPrimary) reader() *Store {
	p.t.Helper()
	s := p.store()
	if _, err := s.BeginReading(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func note(name string, id int64) Note {
	return Note{Tenant: "t", Name: name, Epoch: 1, RecordedID: id, State: Streaming}
}

// mustWrite makes a checkpoint in which every note is written.
func mustWrite(t *testing.T, s *Store, notes ...Note) Outcome {
	t.Helper()
	done, err := s.Checkpoint(t.Context(), 100, notes)
	if err != nil || done.CheckpointID == "" || slices.Contains(done.Written, false) {
		t.Fatalf("the checkpoint is %+v: %v", done, err)
	}
	return done
}

func TestCheckpoint(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	full := Note{Tenant: "t", Name: "full", Epoch: 5, RecordedID: 7, Fingerprint: "m:1 n:2", State: Backfilling, Reason: "why", Class: "dns", Detached: true,
		Copied: 10, CopyTotal: 20, Mappings: FormatProgress([]MappingProgress{{Name: "m", SequenceID: 3}}), TakenEpoch: 5, Retried: 2}
	done := mustWrite(t, s, full, note("b", 3))

	found, err := s.Note(t.Context(), "t", "full")
	if err != nil || found.Since.IsZero() {
		t.Fatalf("%+v: %v", found, err)
	}
	full.Since, full.CopyTotal = found.Since, 0 // the total is not read back
	if found != full {
		t.Errorf("read\n%+v; written\n%+v", found, full)
	}
	if missing, err := s.Note(t.Context(), "t", "c"); err != nil || missing != (Note{Tenant: "t", Name: "c"}) {
		t.Errorf("a destination that never ran has the note %+v: %v", missing, err)
	}
	if all, err := s.Notes(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("the notes are %+v: %v", all, err)
	}
	other := &Store{Slot: "two", Connect: p.connect}
	defer other.Close()
	if all, err := other.Notes(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("another slot has the notes %+v: %v", all, err)
	}

	// An id and a flush LSN never go back; the time of an unchanged state stays.
	full.RecordedID, full.Detached = 6, false
	second := mustWrite(t, s, full)
	if again, err := s.Note(t.Context(), "t", "full"); err != nil || again.RecordedID != 7 || again.Detached || !again.Since.Equal(found.Since) {
		t.Errorf("after an older id: %+v: %v", again, err)
	}
	if _, err := s.CheckpointFlush(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	if flush := p.text(`SELECT flush_lsn::text FROM outflow.source WHERE slot = 'one'`); flush != wal.LSN(100).String() {
		t.Errorf("the flush LSN is %s", flush)
	}
	for id, want := range map[string]bool{"": true, done.CheckpointID: true, second.CheckpointID: true, strings.Split(second.CheckpointID, "/")[0] + "/4": false, "1/1": false} {
		if has, err := s.HasCheckpoint(t.Context(), id); err != nil || has != want {
			t.Errorf("the primary has checkpoint %q: %v, %v", id, has, err)
		}
	}
	if _, err := s.HasCheckpoint(t.Context(), "x"); err == nil {
		t.Error("x is an id of a checkpoint")
	}
}

// A later epoch is a person's word, and no checkpoint writes over the epoch.
func TestCheckpointLeavesALaterEpoch(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	mustWrite(t, s, note("a", 1), note("b", 1))
	if n, err := p.store().RequestResync(t.Context(), "t", "a", "Ada", "a test"); err != nil || n != 1 {
		t.Fatalf("%d destinations are asked: %v", n, err)
	}
	done, err := s.Checkpoint(t.Context(), 100, []Note{note("a", 2), note("b", 2)})
	if err != nil || !slices.Equal(done.Written, []bool{false, true}) {
		t.Errorf("the checkpoint is %+v: %v", done, err)
	}
	if a, err := s.Note(t.Context(), "t", "a"); err != nil || a.State != Backfilling || a.RecordedID != 1 || a.Epoch == 1 {
		t.Errorf("the note is %+v: %v", a, err)
	}
}

// The primary refuses the rows of some destinations: all others are noted, and the flush LSN is not.
func TestCheckpointOfRefusedNotes(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	mustWrite(t, s)
	p.exec(`ALTER TABLE outflow.destination_state ADD CHECK (name NOT LIKE 'bad%' OR reason LIKE '%SQLSTATE%')`)
	var notes []Note
	for _, name := range []string{"a", "bad1", "b", "c", "d", "bad2", "e"} {
		notes = append(notes, note(name, 1))
	}
	done, err := s.Checkpoint(t.Context(), 200, notes)
	if err != nil || done.CheckpointID != "" || len(done.Refused) != 2 || done.Refused[1] == nil || done.Refused[5] == nil {
		t.Fatalf("the checkpoint is %+v: %v", done, err)
	}
	for i, written := range done.Written {
		if written == (done.Refused[i] != nil) {
			t.Errorf("note %d: written is %v, refused for %v", i, written, done.Refused[i])
		}
	}
	if flush := p.text(`SELECT flush_lsn::text FROM outflow.source WHERE slot = 'one'`); flush != wal.LSN(100).String() {
		t.Errorf("the flush LSN is %s, and two destinations are not noted", flush)
	}

	// An epoch is raised all the same: with a plain reason, or by the removal of the note.
	if epoch, err := s.RaiseEpoch(t.Context(), Note{Tenant: "t", Name: "bad1", State: Halted, Reason: "why", Detached: true}); err != nil || epoch < 2 {
		t.Errorf("the epoch is %d: %v", epoch, err)
	}
	if bad, err := s.Note(t.Context(), "t", "bad1"); err != nil || bad.State != Halted || !strings.Contains(bad.Reason, "23514") {
		t.Errorf("the note is %+v: %v", bad, err)
	}
	p.exec(`ALTER TABLE outflow.destination_state ADD CHECK (name <> 'a' OR epoch = 1)`)
	if epoch, err := s.RaiseEpoch(t.Context(), note("a", 1)); err != nil || epoch < 2 {
		t.Errorf("the epoch is %d: %v", epoch, err)
	}
	if gone, err := s.Note(t.Context(), "t", "a"); err != nil || gone.Epoch != 0 {
		t.Errorf("the note is %+v: %v", gone, err)
	}

	p.exec(`ALTER TABLE outflow.destination_state ADD CHECK (state <> 'retrying')`)
	notes = nil
	for range maxRefused + 1 {
		notes = append(notes, Note{Tenant: "t", Name: strings.Repeat("x", len(notes)+1), Epoch: 1, State: Retrying})
	}
	if _, err := s.Checkpoint(t.Context(), 300, notes); err == nil {
		t.Error("any number of refused notes is looked for in one checkpoint")
	}
}

func TestRaiseEpoch(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	raise := func() int64 {
		t.Helper()
		epoch, err := s.RaiseEpoch(t.Context(), Note{Tenant: "t", Name: "a", State: Parked, Reason: "why", Detached: true})
		if err != nil {
			t.Fatal(err)
		}
		return epoch
	}
	first := raise()
	if now := time.Now().UnixMicro(); first < now-time.Hour.Microseconds() {
		t.Errorf("the first epoch is %d; the time is %d", first, now)
	}
	a, err := s.Note(t.Context(), "t", "a")
	if err != nil || a.Epoch != first || a.TakenEpoch != first || a.State != Parked || !a.Detached || a.Reason != "why" {
		t.Errorf("the note is %+v: %v", a, err)
	}
	p.exec(`UPDATE outflow.destination_state SET epoch = epoch + 3600000000000`) // by a clock that was put back since
	if second := raise(); second != first+3600000000001 {
		t.Errorf("the epoch after %d is %d", first+3600000000000, second)
	}
}

// The epoch of a destination without a note on the primary comes from the clock of the process, which may be ahead of the primary's clock.
func TestRaiseEpochAboveTheNote(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	ahead := time.Now().Add(time.Hour).UnixMicro()
	raise := func(what, name string) {
		t.Helper()
		if epoch, err := s.RaiseEpoch(t.Context(), Note{Tenant: "t", Name: name, Epoch: ahead, State: Parked}); err != nil || epoch != ahead+1 {
			t.Errorf("%s: the epoch after %d is %d: %v", what, ahead, epoch, err)
		}
	}
	raise("no note", "a")
	p.exec(`ALTER TABLE outflow.destination_state ADD CHECK (name <> 'b')`)
	raise("a refused note", "b")
}

// A process that another process has replaced writes nothing.
func TestFence(t *testing.T) {
	p := newPrimary(t)
	old := p.reader()
	mustWrite(t, old, note("a", 1))
	if err := old.CheckReading(t.Context()); err != nil || old.Fenced() {
		t.Fatalf("the reading process is fenced: %v", err)
	}
	now := p.reader()
	if now.OwnReading() <= old.OwnReading() {
		t.Errorf("reading %d comes after %d", now.OwnReading(), old.OwnReading())
	}
	_, checkpoint := old.Checkpoint(t.Context(), 200, []Note{note("a", 9)})
	_, flush := old.CheckpointFlush(t.Context(), 200)
	_, raise := old.RaiseEpoch(t.Context(), note("a", 9))
	for name, err := range map[string]error{"Checkpoint": checkpoint, "CheckpointFlush": flush, "RaiseEpoch": raise, "CheckReading": old.CheckReading(t.Context()),
		"AnswerSync": old.AnswerSync(t.Context(), []Request{{Note: note("a", 0), Until: 5}})} {
		if !errors.Is(err, primary.ErrFenced) {
			t.Errorf("%s of a replaced process: %v", name, err)
		}
	}
	if !old.Fenced() || now.Fenced() {
		t.Error("the replaced process does not know that another process reads the slot")
	}
	if a, err := now.Note(t.Context(), "t", "a"); err != nil || a.RecordedID != 1 || a.Epoch != 1 {
		t.Errorf("the replaced process has written %+v: %v", a, err)
	}
	mustWrite(t, now, note("a", 2))
}

// A statement that waits for a lock is judged after the wait: nothing is written once the next reading has begun.
func TestFenceAfterAWait(t *testing.T) {
	p := newPrimary(t)
	old := p.reader()
	tx, err := p.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `UPDATE outflow.source SET reading = reading + 1 WHERE slot = 'one'`); err != nil {
		t.Fatal(err)
	}
	written := make(chan error)
	go func() {
		_, err := old.Checkpoint(t.Context(), 200, []Note{note("a", 9)})
		written <- err
	}()
	look, err := p.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close(context.Background())
	for waits := false; !waits; {
		if err := look.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-written; !errors.Is(err, primary.ErrFenced) {
		t.Errorf("the checkpoint: %v", err)
	}
}

func TestRequests(t *testing.T) {
	p := newPrimary(t)
	s, person := p.reader(), p.store()
	halted := note("halted", 1)
	halted.State = Halted
	gone := note("gone", 1)
	gone.Reason = primary.NotConfigured
	mustWrite(t, s, note("a", 1), halted, gone)
	none := func() {
		t.Helper()
		if open, err := s.Requests(t.Context()); err != nil || len(open) != 0 {
			t.Fatalf("the requests are %+v: %v", open, err)
		}
	}
	one := func() Request {
		t.Helper()
		open, err := s.Requests(t.Context())
		if err != nil || len(open) != 1 {
			t.Fatalf("the requests are %+v: %v", open, err)
		}
		return open[0]
	}
	none()

	if n, err := person.RequestRetryHalted(t.Context(), "", "", "Ada", "a right was granted"); err != nil || n != 1 {
		t.Fatalf("%d are asked: %v", n, err)
	}
	if q := one(); q.Note.Name != "halted" || q.Retries != 1 || q.By != "Ada" || q.Why != "a right was granted" || q.Until != -1 {
		t.Errorf("the request is %+v", q)
	}
	halted.Retried = 1
	mustWrite(t, s, halted)
	none()
	if n, err := person.RequestRetry(t.Context(), "t", "", "Ada", ""); err != nil || n != 2 { // not the removed destination
		t.Fatalf("%d are asked: %v", n, err)
	}
	a := note("a", 1)
	a.Retried, halted.Retried = 1, 2
	mustWrite(t, s, a, halted)
	none()

	if n, err := person.RequestResync(t.Context(), "", "a", "Grace", "\x00"); err != nil || n != 1 {
		t.Fatalf("%d are asked: %v", n, err)
	}
	q := one()
	if q.Note.Epoch <= 1 || q.Note.TakenEpoch != 1 || q.By != "Grace" || q.Note.State != Backfilling || !strings.Contains(q.Note.Reason, "Grace") {
		t.Errorf("the request is %+v", q)
	}
	a.Epoch = q.Note.Epoch
	mustWrite(t, s, a)
	none()

	if err := person.AskSync(t.Context(), "t", "a", 40); err != nil {
		t.Fatal(err)
	}
	if q := one(); q.Until != 40 || q.Note.Name != "a" {
		t.Errorf("the request is %+v", q)
	}
	if err := s.AnswerSync(t.Context(), []Request{one()}); err != nil {
		t.Fatal(err)
	}
	none()
	now, err := person.Progress(t.Context(), "t", "a")
	if err != nil || now != (Progress{Reached: 40, State: Streaming}) {
		t.Errorf("the progress is %+v: %v", now, err)
	}
	if now, err = person.Progress(t.Context(), "t", "unknown"); err != nil || now != (Progress{Reached: -1}) {
		t.Errorf("the progress of an unknown destination is %+v: %v", now, err)
	}
}

func TestSwitches(t *testing.T) {
	p := newPrimary(t)
	s := p.store()
	own := Switch{Kind: SwitchDestination, Tenant: "t", Name: "a", Off: true, By: "Ada", Reason: "a test"}
	for _, sw := range []Switch{{Kind: SwitchReading, Off: true, By: "Grace"}, own, {Kind: SwitchReading, By: "Joan"}} {
		if err := s.SetSwitch(t.Context(), sw); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.Switches(t.Context())
	if err != nil || len(all) != 2 || all[0].At.IsZero() {
		t.Fatalf("the switches are %+v: %v", all, err)
	}
	all[0].At = time.Time{}
	if all[0] != own || all[1].Kind != SwitchReading || all[1].Off || all[1].By != "Joan" {
		t.Errorf("the switches are %+v", all)
	}
	if err := s.SetSwitch(t.Context(), Switch{Kind: "another"}); err == nil {
		t.Error("the primary takes a switch of another kind")
	}
	for sw, want := range map[Switch]string{own: "by Ada: a test", {Kind: SwitchApplying, By: "Grace"}: "applying was switched off by Grace"} {
		if why := sw.Why(); why != want {
			t.Errorf("%+v: %q", sw, why)
		}
	}
}

func TestDestinations(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	gone := note("gone", 3)
	gone.Reason = primary.NotConfigured
	copied := note("copied", 2)
	copied.State, copied.Copied, copied.CopyTotal = Backfilling, 10, 20
	copied.Mappings = FormatProgress([]MappingProgress{{Name: "m", SequenceID: 5}})
	mustWrite(t, s, gone, copied, Note{Tenant: "u", Name: "a", Epoch: 1, RecordedID: -1, State: Streaming})
	p.exec(`UPDATE outflow.destination_state SET since = 'infinity' WHERE tenant_id = 'u'`)
	all, err := p.store().Destinations(t.Context(), "", "")
	if err != nil || len(all) != 3 {
		t.Fatalf("the destinations are %+v: %v", all, err)
	}
	if d := all[0]; d.Name != "copied" || d.State != Backfilling || d.Copied != 10 || d.CopyTotal != 20 || !d.Configured() || len(d.Mappings) != 1 || d.Mappings[0].SequenceID != 5 {
		t.Errorf("the first is %+v", d)
	}
	if d := all[1]; d.Name != "gone" || d.Configured() || d.SequenceID != 3 || d.CopyTotal != -1 {
		t.Errorf("the second is %+v", d)
	}
	if d := all[2]; d.Tenant != "u" || d.Since.Unix() != 0 || d.Mappings != nil {
		t.Errorf("the third is %+v", d)
	}
	for _, c := range []struct {
		tenant, name string
		n            int
	}{{"t", "", 2}, {"t", "gone", 1}, {"", "a", 1}, {"v", "", 0}} {
		if some, err := s.Destinations(t.Context(), c.tenant, c.name); err != nil || len(some) != c.n {
			t.Errorf("of %q/%q: %+v: %v", c.tenant, c.name, some, err)
		}
	}
	if ParseProgress("{") != nil || ParseProgress("") != nil || FormatProgress(nil) != "" {
		t.Error("an unreadable progress is known")
	}
}

// Nothing reads the slot here: see the end-to-end tests for a reader.
func TestNoReader(t *testing.T) {
	p := newPrimary(t)
	s := p.store()
	if attended, err := s.Attended(t.Context()); err != nil || attended {
		t.Errorf("attended is %v: %v", attended, err)
	}
	if reader, err := s.Reader(t.Context()); err != nil || reader != nil {
		t.Errorf("the reader is %+v: %v", reader, err)
	}
	before, err := s.WALEnd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.FlushWAL(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.exec(`SELECT pg_switch_wal()`)
	if after, err := s.WALEnd(t.Context()); err != nil || after <= before {
		t.Errorf("the WAL ends at %d, and ended at %d before: %v", after, before, err)
	}
}

// The store connects again after the loss of the connection, and says where a silent primary is.
func TestConnections(t *testing.T) {
	p := newPrimary(t)
	s := p.reader()
	p.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	if err := s.CheckReading(t.Context()); err == nil {
		t.Error("a statement passes over a lost connection")
	}
	if err := s.CheckReading(t.Context()); err != nil {
		t.Errorf("after the loss of the connection: %v", err)
	}
	s.Close()
	if err := s.CheckReading(t.Context()); err != nil {
		t.Errorf("after Close: %v", err)
	}
	down := errors.New("no route")
	if _, err := (&Store{Connect: func(context.Context) (*pgx.Conn, error) { return nil, down }}).Notes(t.Context()); !errors.Is(err, down) {
		t.Errorf("a store without a primary: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_sleep(60)`)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "has not answered within") {
		t.Errorf("a silent primary: %v", err)
	}
}
