package sink

import (
	"runtime"
	"testing"

	"go.uber.org/zap"

	"outflow/replication"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/queue"
)

// item is a table of a tenant's items.
var item = &wal.Relation{OID: 1, Schema: "public", Name: "item", Table: "item", Identity: 'd', Key: []int{0, 1},
	Columns: []wal.Column{{Name: "tenant", Type: "text", Identity: true}, {Name: "id", Type: "text", Identity: true}}}

func inserted(tenant, id string) wal.Change {
	return wal.Change{Kind: wal.Insert, Relation: item, New: wal.NewTuple([]wal.Value{
		{Presence: wal.Text, Text: []byte(tenant)}, {Presence: wal.Text, Text: []byte(id)}})}
}

func queueOf(t *testing.T) *Destination {
	t.Helper()
	r := NewRouter(Config{Options: Options{QueueBytes: 1 << 40, MemoryBytes: 1 << 42, BatchRows: 10_000, Options: external.Options{MaxConnections: 1}}, Acks: replication.NewAckTracker(0), Log: zap.NewNop()})
	d, err := r.Add(external.DestinationSpec{Tenant: "t", Name: "main", DSN: "postgres://u@127.0.0.1:1/none"})
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
		ticket, _ := d.router.Acks.Begin(wal.LSN(id))
		part := &wal.Transaction{SequenceID: id, Ticket: ticket, Last: true, Session: 1}
		part.Changes = append(part.Changes, inserted("t", "1"))
		d.enqueue(part, part.Changes)
		d.complete(id)
		d.router.Acks.Commit(ticket, wal.LSN(id))
	}
	grown := heap() - before
	t.Logf("a transaction takes %d bytes, and counts %d", grown/n, d.queue.Bytes()/n)
	if grown > d.queue.Bytes() {
		t.Errorf("%d transactions take %d bytes, and %d are counted", n, grown, d.queue.Bytes())
	}
	if d.router.gate.Used != d.queue.Bytes() {
		t.Errorf("the gate counts %d bytes, the queue %d", d.router.gate.Used, d.queue.Bytes())
	}
	d.mu.Lock()
	d.queue.Take(queue.Progress{n}, d.reads, nil) // which passes over what the external database has
	d.queue.LetGo(d.queue.Applied())
	d.mu.Unlock()
	if d.queue.Bytes() != 0 || d.router.gate.Used != 0 {
		t.Errorf("at the end %d bytes are queued, and the gate counts %d", d.queue.Bytes(), d.router.gate.Used)
	}
}
