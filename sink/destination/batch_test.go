package destination

import (
	"context"
	"slices"
	"testing"
	"time"

	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/queue"
)

// A batch is whole transactions from the front of the queue, folded, without the changes that no mapping reads.
func TestTakeABatch(t *testing.T) {
	t.Parallel()
	d := connected(t, 5)
	other := *item
	other.OID, other.Name, other.Table = 2, "other", "other"
	unread := inserted("t", "9")
	unread.Relation = &other
	if b := d.take(nil); b != nil {
		t.Fatalf("an empty queue gives %+v", b)
	}
	d.bring(t, 5, inserted("t", "0")) // the external database has it
	d.bring(t, 10, inserted("t", "1"), unread)
	d.bring(t, 20, inserted("t", "2"), deletedItem("t", "1"))
	b := d.take(nil)
	if b == nil || b.large != nil || len(b.transactions) != 2 || b.last != 20 || b.changes != 2 || !slices.Equal(b.mappings, []bool{true}) {
		t.Fatalf("the batch is %+v", b)
	}
	rows := b.rows["item"]
	if len(b.rows) != 1 || len(rows.Upserts) != 1 || len(rows.Deletes) != 1 || string(rows.Upserts[0].Tuple.Value(1).Text) != "2" {
		t.Errorf("the rows are %+v", b.rows)
	}
	if got := rows.Upserts[0]; got.SequenceID != 20 || !got.CommittedAt.Equal(time.Unix(20, 0)) {
		t.Errorf("the inserted row is %+v", got)
	}
	if b.bytes == 0 || b.bytes >= d.queue.Bytes() {
		t.Errorf("the batch has %d of %d bytes", b.bytes, d.queue.Bytes())
	}
	if xids := b.xidsOf(map[int64]bool{20: true, 30: true}); !slices.Equal(xids, []uint32{20}) {
		t.Errorf("the transaction ids are %v", xids)
	}
	d.bring(t, 30, inserted("t", "3"))
	if next := d.take(b); next == nil || len(next.transactions) != 1 || next.last != 30 {
		t.Errorf("behind the batch in flight comes %+v", next)
	}
}

// A transaction that a batch cannot fold goes alone, in rounds, and not while another batch is in flight.
func TestTakeATransactionForRounds(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	d.receive(t, 10)
	d.bring(t, 20, wal.Change{Kind: wal.Truncate, Relation: item}, inserted("t", "2"))
	d.receive(t, 30)
	first := d.take(nil)
	if first == nil || first.large != nil || first.last != 10 {
		t.Fatalf("the first batch is %+v", first)
	}
	if next := d.take(first); next != nil {
		t.Fatalf("%+v is taken beside a batch in flight", next)
	}
	d.counts(first)
	b := d.take(nil)
	if b == nil || b.large == nil || b.large.ID != 20 || len(b.transactions) != 1 || b.last != 20 || b.rows != nil || b.bytes != 0 {
		t.Errorf("the batch is %+v", b)
	}
}

// The primary is told of a commit only when the external server has it on the disk: with the next flush, or with a COMMIT that waits for the disk.
func TestCommitsAreCounted(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	flush := func(want wal.LSN, when string) {
		t.Helper()
		if got := d.shared.Acks.Flush(); got != want {
			t.Errorf("%s: acknowledged up to %d, expected %d", when, got, want)
		}
	}
	commit := func(async bool) *batch {
		t.Helper()
		b := d.take(nil)
		if b == nil {
			t.Fatal("there is no batch")
		}
		if b.async = d.mayLag(b) && async; b.async != async {
			t.Fatalf("the commit may lag: %v", !async)
		}
		d.counts(b)
		return b
	}
	d.bring(t, 10, inserted("t", "1"), inserted("t", "2"))
	commit(true)
	flush(0, "behind a commit that does not wait for the disk")
	if s := d.Status(); s.SequenceID != 10 || s.Rows != 2 || s.Batches != 1 || s.Transactions != 1 || !s.CommitTime.Equal(time.Unix(10, 0)) || s.Queued != 0 || s.QueueBytes == 0 {
		t.Errorf("the status is %+v", s)
	}
	if d.session.Held[0] != 10 || d.take(nil) != nil {
		t.Errorf("the session is at %d", d.session.Held[0])
	}
	d.flushed(external.Positions{Insert: 1000, Flush: 500})
	flush(0, "flushed up to before the commit")
	d.flushed(external.Positions{})
	flush(0, "a server that tells nothing")
	d.receive(t, 20)
	commit(true)
	d.flushed(external.Positions{Insert: 2000, Flush: 1000})
	flush(11, "the first is flushed")
	d.receive(t, 30)
	d.receive(t, 40)
	if b := commit(false); len(b.transactions) != 2 {
		t.Errorf("the batch has %d transactions", len(b.transactions))
	}
	flush(41, "behind a commit that waits for the disk")
	if s := d.Status(); s.SequenceID != 40 || s.Rows != 4 || s.Batches != 3 || s.Transactions != 4 || s.Queued != 0 || d.queue.Bytes() != 0 || d.shared.Gate.Used() != 0 {
		t.Errorf("the status is %+v, the queue has %d bytes", s, d.queue.Bytes())
	}
	if d.noted.synced[0].SequenceID != 40 {
		t.Errorf("the mappings are at %+v", d.noted.synced)
	}
}

// A success ends a time of failures.
func TestACommitEndsFailures(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	d.receive(t, 10)
	d.queue.Narrow()
	d.failures.since, d.reach.doubts, d.status.Attempts, d.status.Err = time.Now(), 3, 3, &external.Error{}
	d.failures.backoff.Next()
	d.counts(d.take(nil))
	s := d.Status()
	if !d.failures.since.IsZero() || d.reach.doubts != 0 || s.Attempts != 0 || s.Err != nil || d.queue.Limit() != d.shared.Options.BatchRows {
		t.Errorf("%+v, %d doubts, batches of %d", s, d.reach.doubts, d.queue.Limit())
	}
	if d.failures.backoff.Next() > d.shared.Options.RetryMin {
		t.Error("the pauses do not begin again")
	}
	if since := d.SinceCommit(time.Now()); since > time.Minute {
		t.Errorf("the last commit was %s ago", since)
	}
}

// A commit waits for the disk where the wait costs no other destination, or where too much waits for the flush already.
func TestCommitsThatMayLag(t *testing.T) {
	t.Parallel()
	d := connected(t, -1)
	d.receive(t, 10)
	b := d.take(nil)
	if !d.mayLag(b) {
		t.Error("a small batch may not lag")
	}
	if d.mayLag(&batch{large: &queue.Transaction{}}) {
		t.Error("a large transaction lags")
	}
	if d.mayLag(&batch{bytes: d.shared.Options.queueBytes() + 1}) {
		t.Error("a batch larger than the queue lags")
	}
	d.session.TellsPositions = false
	if d.mayLag(b) {
		t.Error("a commit lags, and the server does not tell of the flush")
	}
	d.session.TellsPositions = true
	pool := external.NewConnections(1)
	d.session.Place = &external.Place{}
	if err := pool.Take(t.Context(), nil, d.session.Place); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() { waits <- pool.Take(ctx, nil, &external.Place{}) }()
	until(t, "commits not to lag on a connection that another destination waits for", func() bool { return !d.mayLag(b) })
	cancel()
	<-waits
}
