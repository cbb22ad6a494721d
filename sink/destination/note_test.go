package destination

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/lifecycle"
	"outflow/sink/status"
)

// The primary is to note a destination where something has changed since the last note, and no other goroutine writes about the destination.
func TestNotesThatDiffer(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	differs := func(want bool, when string) ledger.Note {
		t.Helper()
		note, differs, waits := d.Note()
		if differs != want || waits {
			t.Errorf("%s: the note differs: %v, the slot waits: %v", when, differs, waits)
		}
		return note
	}
	note := differs(true, "at the beginning")
	if note.Tenant != "t" || note.Name != "main" || note.Epoch != 5 || note.TakenEpoch != 5 || note.State != ledger.Streaming || note.Class != "" || note.Detached {
		t.Errorf("the note is %+v", note)
	}
	d.Wrote(note)
	differs(false, "as noted")
	d.receive(t, 10)
	b := d.take(nil)
	b.async = true
	d.counts(b)
	note = differs(true, "behind a commit")
	if note.RecordedID != -1 || note.Mappings == "" {
		t.Errorf("behind a commit that the server may lose: %+v", note)
	}
	d.flushed(external.Positions{Insert: 1, Flush: 1})
	if note = differs(true, "flushed"); note.RecordedID != 10 {
		t.Errorf("behind a flushed commit: %+v", note)
	}
	d.Wrote(note)
	differs(false, "noted again")

	d.life.Work = lifecycle.Working
	d.receive(t, 20)
	d.session = nil
	d.settleUp(d.giveUp(&external.Error{SQLState: "28P01", Err: errors.New("no login")}))
	if note = differs(true, "failed"); note.State != ledger.Retrying || note.Class != external.ClassAuth || note.Reason != "no login" {
		t.Errorf("of a failing destination: %+v", note)
	}
	d.life.Noting = true
	differs(false, "while the parking is noted")
	d.life.Noting, d.life.Stream = false, lifecycle.Unread
	differs(false, "before the beginning")
	d.life.Stream, d.life.Refused = lifecycle.Attached, true
	if _, differs, waits := d.Note(); differs || !waits {
		t.Errorf("a refused note differs: %v; the slot waits: %v", differs, waits)
	}
	d.life.Stream = lifecycle.Detached
	if _, differs, waits := d.Note(); differs || waits {
		t.Errorf("a refused note of a parked destination differs: %v; the slot waits: %v", differs, waits)
	}
	d.Stop()
}

// What the primary has noted of an earlier epoch says nothing about the external database in the present epoch.
func TestNotesOfAnEarlierEpoch(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	d.Wrote(ledger.Note{Epoch: 4, RecordedID: 90})
	if d.noted.recordedID != -1 {
		t.Errorf("the database is known to have %d", d.noted.recordedID)
	}
	d.Wrote(ledger.Note{Epoch: 5, RecordedID: 80})
	d.Wrote(ledger.Note{Epoch: 5, RecordedID: 70})
	if d.noted.recordedID != 80 || d.Status().SequenceID != 80 {
		t.Errorf("the database is known to have %d", d.noted.recordedID)
	}
}

// The expected rows of a copy are noted while the copy goes on.
func TestNoteOfACopy(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	d.status.Copied, d.status.CopyTotal = 10, 50
	if note, _, _ := d.Note(); note.Copied != 10 || note.CopyTotal != 0 {
		t.Errorf("behind the copy: %+v", note)
	}
	d.life.Current = false
	if note, _, _ := d.Note(); note.Copied != 10 || note.CopyTotal != 50 || note.State != ledger.Backfilling {
		t.Errorf("during the copy: %+v", note)
	}
	d.status.CopyTotal = -1
	if note, _, _ := d.Note(); note.CopyTotal != 0 {
		t.Errorf("with an unknown number of rows: %+v", note)
	}
}

// The status names the reason of the state, and since when.
func TestStatusOfALife(t *testing.T) {
	t.Parallel()
	lost, fault := errors.New("no route"), &external.Error{Verdict: external.NeedsHuman, Err: errors.New("no such mapping")}
	at := time.Unix(1e9, 0)
	for name, test := range map[string]struct {
		change func(*Destination)
		want   func(status.Status) bool
	}{
		"streaming": {func(*Destination) {}, func(s status.Status) bool { return s.State == ledger.Streaming && s.Reason == "" && !s.Copying }},
		"retrying": {func(d *Destination) { d.life.Health, d.status.Err = lifecycle.Failing, lost },
			func(s status.Status) bool { return s.State == ledger.Retrying && s.Reason == "no route" }},
		"copied": {func(d *Destination) { d.life.Current, d.status.Reason = false, "it waits" },
			func(s status.Status) bool {
				return s.State == ledger.Backfilling && s.Copying && s.Reason == "it waits"
			}},
		"paused": {func(d *Destination) {
			d.Pause(&ledger.Switch{Kind: ledger.SwitchDestination, Off: true, By: "eve", Reason: "a move"})
		}, func(s status.Status) bool {
			return s.State == ledger.Paused && strings.Contains(s.Reason, "eve") && strings.Contains(s.Reason, "a move")
		}},
		"paused and parked": {func(d *Destination) {
			d.Pause(&ledger.Switch{Kind: ledger.SwitchDestination, Off: true, By: "eve"})
			d.life.Stream, d.parkings.reason = lifecycle.Detached, "its queue is full"
		}, func(s status.Status) bool {
			return s.State == ledger.Paused && s.Detached && strings.Contains(s.Reason, "eve") && strings.Contains(s.Reason, "its queue is full") && s.DetachedWhy == "its queue is full"
		}},
		"parked": {func(d *Destination) {
			d.life.Stream, d.parkings.reason, d.status.Err = lifecycle.Detached, "it fails", lost
		},
			func(s status.Status) bool {
				return s.State == ledger.Parked && s.Reason == "it fails" && errors.Is(s.Err, lost)
			}},
		"halted": {func(d *Destination) {
			d.life.Health, d.failures.halt, d.status.Err = lifecycle.Halted, &halt{err: fault, at: at}, lost
		}, func(s status.Status) bool {
			return s.State == ledger.Halted && s.Reason == "no such mapping" && errors.Is(s.Err, fault) && s.Since.Equal(at) && !s.Copying
		}},
		"halted beside a copy": {func(d *Destination) {
			d.life.Health, d.failures.halt, d.life.Current = lifecycle.Halted, &halt{err: fault, at: at}, false
		}, func(s status.Status) bool { return s.State == ledger.Halted && s.Copying }},
		"halted without a connection": {func(d *Destination) {
			d.life.Health, d.failures.halt, d.life.Current, d.session = lifecycle.Halted, &halt{err: fault, at: at}, false, nil
		}, func(s status.Status) bool { return s.State == ledger.Halted && !s.Copying }},
		"unusable": {func(d *Destination) { d.life.Unusable, d.life.Paused, d.fault = true, true, fault },
			func(s status.Status) bool { return s.State == ledger.Halted && s.Reason == "no such mapping" }},
		"more rows than expected": {func(d *Destination) { d.status.Copied, d.status.CopyTotal = 11, 10 },
			func(s status.Status) bool { return s.CopyTotal == -1 && s.Copied == 11 }},
		"as many rows as expected": {func(d *Destination) { d.status.Copied, d.status.CopyTotal = 10, 10 },
			func(s status.Status) bool { return s.CopyTotal == 10 }},
	} {
		d := connected(t, -1)
		if test.change(d); !test.want(d.Status()) {
			t.Errorf("%s: %+v", name, d.Status())
		}
	}
}

// The history has each change of the state once, with the latest reason, and is bounded.
func TestHistory(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	begun := len(d.History())
	for i := range 3 {
		d.life.Health, d.status.Err = lifecycle.Failing, fmt.Errorf("failure %d", i)
		d.Observe()
	}
	h := d.History()
	if len(h) != begun+1 || h[begun].State != ledger.Retrying || h[begun].Reason != "failure 2" || !d.Status().Since.Equal(h[begun].At) {
		t.Fatalf("the history is %+v", h)
	}
	h[begun].Reason = "changed"
	if d.History()[begun].Reason != "failure 2" {
		t.Error("the history can be changed from outside")
	}
	for i := range 2 * historyEvents {
		if d.life.Health = lifecycle.Well; i%2 == 1 {
			d.life.Health = lifecycle.Failing
		}
		d.Observe()
	}
	if h = d.History(); len(h) != historyEvents || h[historyEvents-1].State != ledger.Retrying || h[historyEvents-2].State != ledger.Streaming {
		t.Errorf("the history has %d events", len(h))
	}
}

// The progress of a mapping keeps the time of the mapping's last write, and the changes that wait for the mapping are counted.
func TestMappingProgress(t *testing.T) {
	t.Parallel()
	d := connected(t, 5)
	if all := d.MappingStatus(); len(all) != 1 || all[0].SequenceID != -1 || all[0].Name != "items" {
		t.Errorf("before the first look: %+v", all)
	}
	d.syncedNowLocked(d.session)
	first := d.MappingStatus()[0]
	text := d.progressLocked()
	d.syncedNowLocked(d.session)
	if again := d.MappingStatus()[0]; again.SequenceID != 5 || !again.At.Equal(first.At) || d.progressLocked() != text {
		t.Errorf("%+v becomes %+v", first, again)
	}
	d.receive(t, 10)
	d.receive(t, 20)
	until(t, "the clock to go on", func() bool { return time.Now().After(first.At) })
	d.session.Held[0] = 10
	d.syncedNowLocked(d.session)
	next := d.MappingStatus()[0]
	if next.SequenceID != 10 || !next.At.After(first.At) || next.Transactions != 1 || next.Changes != 1 || d.progressLocked() == text {
		t.Errorf("after a commit: %+v", next)
	}
	if followed := d.followed(); len(followed) != 1 || !followed["items"] {
		t.Errorf("followed are %v", followed)
	}
	text, d.fault = d.progressLocked(), &external.Error{}
	d.db.Mappings = nil
	if d.forgetRemovedLocked(); d.progressLocked() != text {
		t.Error("the progress is forgotten, and the mappings are not known")
	}
	d.fault = nil
	if d.forgetRemovedLocked(); len(d.followed()) != 0 || d.progressLocked() == text {
		t.Errorf("the progress of a removed mapping stays: %s", d.progressLocked())
	}
}

// The primary is asked for the note of a destination only by a destination that is set aside.
func TestRefusedNotes(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	if err := d.refusedNote(); err != nil {
		t.Errorf("refused: %v", err)
	}
	if err := d.renote(context.Background()); err != nil {
		t.Errorf("noting again: %v", err)
	}
	d.life.Refused, d.noted.refusal = true, &external.Error{Verdict: external.NeedsHuman, Err: errors.New("a trigger")}
	if err := d.refusedNote(); err == nil || err.Error() != "a trigger" {
		t.Errorf("refused: %v", err)
	}
	if err := d.renote(context.Background()); err != nil || d.life.Refused { // the router takes every note
		t.Errorf("noting again: %v, %+v", err, d.life)
	}
}
