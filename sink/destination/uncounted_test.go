package destination

import (
	"context"
	"runtime"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/replication"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
	"outflow/sink/limits"
	"outflow/sink/queue"
	"outflow/sink/schema"
)

// item is a table of a tenant's items.
var item = &wal.Relation{OID: 1, Schema: "public", Name: "item", Table: "item", Identity: 'd', Key: []int{0, 1},
	Columns: []wal.Column{{Name: "tenant", Type: "text", Identity: true}, {Name: "id", Type: "text", Identity: true}}}

func inserted(tenant, id string) wal.Change {
	return wal.Change{Kind: wal.Insert, Relation: item, New: wal.NewTuple([]wal.Value{
		{Presence: wal.Text, Text: []byte(tenant)}, {Presence: wal.Text, Text: []byte(id)}})}
}

// alone is the router of a single destination, whose stream brings nothing.
type alone struct{}

func (alone) CheckpointID() string             { return "" }
func (alone) Checkpoint(context.Context) error { return nil }
func (alone) Arriving() int64                  { return -1 }
func (alone) Configured(string, string) bool   { return false }
func (alone) BegunAt() wal.LSN                 { return 0 }
func (alone) ReadingOff() *ledger.Switch       { return nil }

// queueOf is a destination without a server, by its queue.
func queueOf(t *testing.T) *Destination {
	t.Helper()
	options := WorkOptions{QueueBytes: 1 << 40, BatchRows: 10_000, RetryMin: time.Second, RetryMax: time.Minute}
	d, err := New(&Shared{Options: options, Log: zap.NewNop(), Acks: replication.NewAckTracker(0), Workers: limits.NewWorkers(),
		Gate: &queue.Gate{Limit: 1 << 42}, BackfillSlots: limits.NewSlots(1, time.Second), Schemas: schema.New(nil, nil, zap.NewNop()), Router: alone{}},
		external.DestinationSpec{Tenant: "t", Name: "main", DSN: "postgres://u@127.0.0.1:1/none"})
	if err != nil {
		t.Fatal(err)
	}
	d.reads = map[string]bool{"item": true}
	return d
}

// A queue of the smallest transactions takes no more memory than the queue counts.
func TestSmallTransactionsAreCounted(t *testing.T) {
	d := queueOf(t)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	const n = 200_000
	for id := int64(1); id <= n; id++ {
		ticket, _ := d.shared.Acks.Begin(wal.LSN(id))
		part := &wal.Transaction{SequenceID: id, Ticket: ticket, Last: true, Session: 1}
		part.Changes = append(part.Changes, inserted("t", "1"))
		d.Enqueue(part, part.Changes)
		d.Complete(id)
		d.shared.Acks.Commit(ticket, wal.LSN(id))
	}
	grown := heap() - before
	t.Logf("a transaction takes %d bytes, and counts %d", grown/n, d.queue.Bytes()/n)
	if grown > d.queue.Bytes() {
		t.Errorf("%d transactions take %d bytes, and %d are counted", n, grown, d.queue.Bytes())
	}
	if d.shared.Gate.Used() != d.queue.Bytes() {
		t.Errorf("the gate counts %d bytes, the queue %d", d.shared.Gate.Used(), d.queue.Bytes())
	}
	d.mu.Lock()
	d.queue.Take(queue.Progress{n}, d.reads, nil) // which passes over what the external database has
	d.queue.LetGo(d.queue.Applied())
	d.mu.Unlock()
	if d.queue.Bytes() != 0 || d.shared.Gate.Used() != 0 {
		t.Errorf("at the end %d bytes are queued, and the gate counts %d", d.queue.Bytes(), d.shared.Gate.Used())
	}
}

// until polls for a condition, for half a minute at most.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !met(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited half a minute for %s", what)
		}
	}
}
