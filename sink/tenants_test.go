package sink

import (
	"slices"
	"testing"

	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/queue"
)

// takes reports whether a destination's queue takes a transaction.
func takes(d *Destination, id int64) bool {
	taken, _ := d.queue.Accept(&wal.Transaction{SequenceID: id, Session: 1}, nil)
	return taken
}

func TestTenants(t *testing.T) {
	all := newTenants()
	destination := func(tenant, name string) *Destination {
		return &Destination{Owner: &external.Owner{Tenant: tenant, Name: name}, queue: queue.New(&queue.Gate{Limit: 1 << 20}, 1<<20, 1)}
	}
	a, b, c := destination("1", "a"), destination("1", "b"), destination("2", "a")
	all.insert(a)
	if !takes(a, 0) {
		t.Error("a destination inserted before the stream begins misses changes")
	}
	all.arrive(7)
	all.insert(b)
	all.insert(c)
	if takes(b, 7) || !takes(b, 8) || all.arrivingID() != 7 {
		t.Error("a destination inserted in the middle of a transaction takes the rest of the transaction, or misses the next")
	}
	if !slices.Equal(all.list(), []*Destination{a, b, c}) || !slices.Equal(all.of("1"), []*Destination{a, b}) {
		t.Errorf("the lists are %v and %v", all.list(), all.of("1"))
	}
	if all.find("1", "b") != b || all.find("2", "b") != nil || all.find("3", "a") != nil {
		t.Error("find finds another destination")
	}
	before, ofOne := all.list(), all.of("1")
	all.remove(a)
	if !slices.Equal(before, []*Destination{a, b, c}) || !slices.Equal(ofOne, []*Destination{a, b}) {
		t.Error("the removal changed lists that callers hold")
	}
	all.remove(b)
	if _, left := all.byTenant["1"]; left || !slices.Equal(all.list(), []*Destination{c}) {
		t.Errorf("after the removal there are %v, and of the tenant %v", all.list(), all.of("1"))
	}
}
