package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"outflow/internal/tenantdsn"
	"outflow/mapping"
	"outflow/sink/external"
)

// specification is the specification in a row, checked. A fault of the row is the destination's.
func (dir *directory) specification(id destinationID, row destinationRow) external.DestinationSpec {
	t := external.DestinationSpec{Tenant: id.tenant, Name: id.name}
	if row.fault != "" {
		t.Fault = external.NewFault(external.ClassConfiguration, errors.New(row.fault), "correct the row that destinations.query reads")
		return t
	}
	connect, err := tenantdsn.Parse(row.dsn, row.ca, dir.policy, dir.timeout)
	if own := (*tenantdsn.Error)(nil); errors.As(err, &own) {
		t.Fault = external.NewFault(own.Class(), own, own.Remedy())
		return t
	}
	if err == nil {
		t.Connect = connect
		t.Mappings, err = dir.mappings(id, row)
	}
	if err != nil {
		t.Fault = external.NewFault(external.ClassConfiguration, err, "")
	}
	return t
}

// mappings are the mappings named by a row, or else the row's own ones, or else the default ones.
func (dir *directory) mappings(id destinationID, row destinationRow) ([]*mapping.Mapping, error) {
	if len(row.definitions) > maxDefinitions {
		return nil, fmt.Errorf("the destination has more than %d mappings", maxDefinitions)
	}
	names := row.mappings
	var own []*mapping.Mapping
	var faults []error
	dir.own.begin(id)
	for i, definition := range row.definitions {
		label := definitionLabel(i)
		if len(definition) > maxDefinition {
			faults = append(faults, fmt.Errorf("%s: longer than %d bytes", label, maxDefinition))
			continue
		}
		m, err := dir.own.load(id, definitionID{label, definition}, func() (*mapping.Mapping, error) { return dir.loaded(label, definition) })
		if err != nil {
			faults = append(faults, err)
			if errors.Is(err, errNoMemory) { // nor would there be for the next
				break
			}
			continue
		}
		if slices.ContainsFunc(own, func(o *mapping.Mapping) bool { return o.Name == m.Name }) {
			faults = append(faults, fmt.Errorf("%s: another mapping has the name %q too", label, m.Name))
		}
		own = append(own, m)
		if len(row.mappings) == 0 {
			names = append(names, m.Name)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	names = orDefault(names)
	for _, name := range names {
		mine := slices.ContainsFunc(own, func(m *mapping.Mapping) bool { return m.Name == name })
		if len(dir.offered) > 0 && !mine && !slices.Contains(dir.offered, name) {
			return nil, fmt.Errorf("mapping %q is not among destinations.policy.mappings: %s", name, strings.Join(dir.offered, ", "))
		}
	}
	return dir.plan.order(dir.plan.mappings.With(own), names)
}

// loaded is a tenant's mapping for the tables and columns here.
func (dir *directory) loaded(label, definition string) (*mapping.Mapping, error) {
	m, err := mapping.Load(label, []byte(definition))
	if err != nil {
		return nil, err
	}
	if m, err = dir.plan.resolved(m); err != nil {
		return nil, err
	}
	for table, columns := range dir.allowed {
		m.Restrict(table, columns)
	}
	return m, nil
}
