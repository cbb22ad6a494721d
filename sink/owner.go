package sink

import (
	"context"
	"fmt"
)

// An external database belongs to a single destination: every row of Outflow's in the metadata has the destination's name. Two destinations
// with the same database, under whatever spellings of the address, would undo each other's copies and ids: the first keeps the database, and
// the other is halted. A destination no longer in the configuration loses the database to the next destination to connect, as after a rename.

// ownDatabase puts the destination's name on the metadata.
const ownDatabase = `UPDATE "_stack_sync_metadata" SET "destination" = $1 WHERE "source" = $2 AND "tenant" = $3 AND "destination" IS DISTINCT FROM $1`

// lockMetadata keeps two destinations from becoming the owner at the same time, and two processes from filling mappings at the same time.
const lockMetadata = `LOCK TABLE "_stack_sync_metadata" IN SHARE ROW EXCLUSIVE MODE`

// refuseOwner refuses a database whose rows belong to another source, another tenant, or another destination of the configuration.
func (s *session) refuseOwner(m metadata) error {
	d := s.d
	const empty = "empty this one: drop the mappings' tables and _stack_sync_metadata"
	switch {
	case m.source == "":
		return nil
	case m.source != d.router.SourceID || m.tenant != d.Tenant:
		return &Error{verdict: needsHuman, Err: fmt.Errorf("the database holds the rows of tenant %q of source %s; two would mix", m.tenant, m.source),
			Remedy: "give this destination a database of its own, or " + empty}
	case m.destination != "" && m.destination != d.Name && d.router.tenants.find(d.Tenant, m.destination) != nil:
		return &Error{verdict: needsHuman, Err: fmt.Errorf("the database is that of destination %q of the same tenant; two would write over each other", m.destination),
			Remedy: fmt.Sprintf("give this destination a database of its own, or take one of the two out of the configuration; where %q has moved to another database, %s", m.destination, empty)}
	}
	return nil
}

// owned reports whether the metadata has the destination's name on every row of Outflow's.
func (s *session) owned(known map[string]metadata) (owned bool) {
	for _, m := range known {
		if m.source == "" {
			continue
		}
		if owned = m.destination == s.d.Name; !owned {
			return false
		}
	}
	return owned
}

// takeOver has a database copied that was another destination's: nothing is known of the changes since. The epoch must be later than the
// other destination's.
func (s *session) takeOver(ctx context.Context, known map[string]metadata) error {
	for _, m := range known {
		if m.source != "" && m.destination != "" && m.destination != s.d.Name && m.epoch >= s.d.wantedEpoch() {
			return s.d.raiseEpoch(ctx, fmt.Sprintf("the database was that of destination %q", m.destination))
		}
	}
	return nil
}
