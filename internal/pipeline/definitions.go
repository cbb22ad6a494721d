package pipeline

import (
	"errors"
	"fmt"
	"maps"

	"outflow/mapping"
)

// definitions are the loaded mappings that tenants have written, each text once: most tenants of an application have the same ones. Their
// memory has a limit, over all tenants and for one tenant. It belongs to one goroutine.
type definitions struct {
	limit   int64 // bytes of memory, of all
	used    int64
	known   map[definitionID]*mapping.Mapping
	sizes   map[destinationID]int64 // of each destination's
	tenants map[string]int64        // of each tenant's destinations together
}

// definitionID is a text, and the label that the errors of the text begin with.
type definitionID struct{ label, text string }

// ofTenant is the part of the limit for one tenant: a sixteenth.
const ofTenant = 16

// errNoMemory says that a limit of definitions is reached.
var errNoMemory = errors.New("remedy: use fewer steps, or ask the operator to raise sink.memory_bytes")

func newDefinitions(limit int64) *definitions {
	return &definitions{limit: limit, known: map[definitionID]*mapping.Mapping{}, sizes: map[destinationID]int64{}, tenants: map[string]int64{}}
}

// begin is called before a destination's definitions are loaded.
func (d *definitions) begin(of destinationID) {
	if d.tenants[of.tenant] -= d.sizes[of]; d.tenants[of.tenant] <= 0 {
		delete(d.tenants, of.tenant)
	}
	delete(d.sizes, of)
}

// load loads a definition of a destination, unless the definition is known.
func (d *definitions) load(of destinationID, id definitionID, load func() (*mapping.Mapping, error)) (*mapping.Mapping, error) {
	m, known := d.known[id]
	if !known {
		var err error
		if m, err = load(); err != nil {
			return nil, err
		}
	}
	size := m.Size()
	switch {
	case d.tenants[of.tenant]+size > d.limit/ofTenant:
		return nil, fmt.Errorf("%s: up to this mapping, the tenant's definitions need %d KiB of memory; %d KiB are allowed; %w",
			id.label, (d.tenants[of.tenant]+size)>>10, d.limit/ofTenant>>10, errNoMemory)
	case !known && d.used+size > d.limit:
		return nil, fmt.Errorf("%s: the mapping needs %d KiB of memory; the definitions of all tenants already use %d of %d KiB; %w",
			id.label, size>>10, d.used>>10, d.limit>>10, errNoMemory)
	}
	d.sizes[of] += size
	d.tenants[of.tenant] += size
	if !known {
		d.used += size
		d.known[id] = m
	}
	return m, nil
}

// keep forgets the definitions that no row has any more.
func (d *definitions) keep(rows map[destinationID]destinationRow) {
	wanted := map[definitionID]bool{}
	for _, row := range rows {
		for i, text := range row.definitions {
			wanted[definitionID{definitionLabel(i), text}] = true
		}
	}
	maps.DeleteFunc(d.known, func(id definitionID, m *mapping.Mapping) bool {
		if wanted[id] {
			return false
		}
		d.used -= m.Size()
		return true
	})
	for of := range d.sizes {
		if _, there := rows[of]; !there {
			d.begin(of)
		}
	}
}

// definitionLabel names a definition as SQL counts.
func definitionLabel(i int) string { return fmt.Sprintf("definitions[%d]", i+1) }
