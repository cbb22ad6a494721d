package sink

import (
	"slices"
	"testing"

	"go.uber.org/zap"

	"outflow/replication"
	"outflow/replication/wal"
	"outflow/sink/destination"
	"outflow/sink/external"
)

// takes reports whether a destination takes a transaction.
func takes(r *Router, d *destination.Destination, id int64) bool {
	ticket, _ := r.config.Acks.Begin(wal.LSN(id + 1))
	return d.Enqueue(&wal.Transaction{SequenceID: id, Session: 1, Ticket: ticket}, nil)
}

func TestTenants(t *testing.T) {
	all := newTenants()
	r := NewRouter(Config{Options: DefaultOptions(), Acks: replication.NewAckTracker(0), Log: zap.NewNop()})
	add := func(tenant, name string) *destination.Destination {
		d, err := destination.New(r.shared, external.DestinationSpec{Tenant: tenant, Name: name, DSN: "postgres://u@127.0.0.1:1/none"})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	a, b, c := add("1", "a"), add("1", "b"), add("2", "a")
	all.insert(a)
	if !takes(r, a, 0) {
		t.Error("a destination inserted before the stream begins misses changes")
	}
	all.arrive(7)
	all.insert(b)
	all.insert(c)
	if takes(r, b, 7) || !takes(r, b, 8) || all.arrivingID() != 7 {
		t.Error("a destination inserted in the middle of a transaction takes the rest of the transaction, or misses the next")
	}
	if !slices.Equal(all.list(), []*destination.Destination{a, b, c}) || !slices.Equal(all.of("1"), []*destination.Destination{a, b}) {
		t.Errorf("the lists are %v and %v", all.list(), all.of("1"))
	}
	if all.find("1", "b") != b || all.find("2", "b") != nil || all.find("3", "a") != nil {
		t.Error("find finds another destination")
	}
	before, ofOne := all.list(), all.of("1")
	all.remove(a)
	if !slices.Equal(before, []*destination.Destination{a, b, c}) || !slices.Equal(ofOne, []*destination.Destination{a, b}) {
		t.Error("the removal changed lists that callers hold")
	}
	all.remove(b)
	if _, left := all.byTenant["1"]; left || !slices.Equal(all.list(), []*destination.Destination{c}) {
		t.Errorf("after the removal there are %v, and of the tenant %v", all.list(), all.of("1"))
	}
}
