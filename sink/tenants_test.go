package sink

import (
	"outflow/sink/external"
	"outflow/sink/queue"
	"slices"
	"testing"
)

func TestTenants(t *testing.T) {
	all := newTenants()
	a, b, c := &Destination{Owner: &external.Owner{Tenant: "1", Name: "a"}}, &Destination{Owner: &external.Owner{Tenant: "1", Name: "b"}}, &Destination{Owner: &external.Owner{Tenant: "2", Name: "a"}}
	all.insert(a)
	if a.queue.Accepted != (queue.Position{ID: -1, Complete: true}) || a.queue.Holding != -1 {
		t.Errorf("a destination inserted before the stream begins misses changes: %+v", a.queue.Accepted)
	}
	all.arrive(7)
	all.insert(b)
	all.insert(c)
	if b.queue.Accepted != (queue.Position{ID: 7, Complete: true}) || b.queue.Holding != 7 || all.arrivingID() != 7 {
		t.Errorf("a destination inserted in the middle of a transaction takes the rest of the transaction: %+v", b.queue.Accepted)
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
