package sink

import (
	"slices"
	"sync"

	"outflow/sink/destination"
)

// tenants are the destinations by tenant. Safe for concurrent use.
type tenants struct {
	mu       sync.RWMutex
	byTenant map[string][]*destination.Destination
	all      []*destination.Destination // in the order of their addition
	arriving int64                      // sequence id of the arriving transaction, -1 before the first
}

func newTenants() *tenants {
	return &tenants{byTenant: map[string][]*destination.Destination{}, arriving: -1}
}

// of are the destinations of a tenant. The caller must not change the list.
func (t *tenants) of(tenant string) []*destination.Destination {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byTenant[tenant]
}

// list is a copy of the list of all destinations.
func (t *tenants) list() []*destination.Destination {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.all)
}

// find is a tenant's destination of that name, nil where there is none.
func (t *tenants) find(tenant, name string) *destination.Destination {
	for _, d := range t.of(tenant) {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// insert adds a destination. The transaction whose parts are arriving passes the destination by: only the rest of the transaction would come.
func (t *tenants) insert(d *destination.Destination) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d.StartAfter(t.arriving)
	t.byTenant[d.Tenant] = append(t.byTenant[d.Tenant], d)
	t.all = append(t.all, d)
}

// remove takes a destination out. Other goroutines may still hold the lists as before.
func (t *tenants) remove(d *destination.Destination) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byTenant[d.Tenant] = without(t.byTenant[d.Tenant], d); len(t.byTenant[d.Tenant]) == 0 {
		delete(t.byTenant, d.Tenant)
	}
	t.all = without(t.all, d)
}

func without(list []*destination.Destination, d *destination.Destination) []*destination.Destination {
	rest := make([]*destination.Destination, 0, len(list))
	for _, o := range list {
		if o != d {
			rest = append(rest, o)
		}
	}
	return rest
}

// arrive begins the arrival of a transaction: a destination inserted from now on gets whole transactions from the next transaction on.
func (t *tenants) arrive(id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.arriving = id
}

// arrivingID is the sequence id of the arriving transaction, -1 before the first.
func (t *tenants) arrivingID() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.arriving
}
