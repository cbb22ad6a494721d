package destination

import (
	"testing"

	"outflow/mapping"
	"outflow/replication"
	"outflow/replication/wal"
	"outflow/sink/external"
	"outflow/sink/ledger"
)

func mappingOf(t *testing.T, yaml string) *mapping.Mapping {
	t.Helper()
	m, err := mapping.Load("m.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// connected is a current destination of one mapping that has a session without a connection, and starts no worker. held is how far the external
// database is.
func connected(t *testing.T, held int64) *Destination {
	t.Helper()
	d := queueOf(t)
	d.shared.Workers.Drain(0)
	d.db.Mappings = []*mapping.Mapping{mappingOf(t, openedYAML)}
	d.Begin(ledger.Note{Epoch: 5, RecordedID: -1, State: ledger.Streaming, Fingerprint: d.fingerprintLocked()})
	p := &external.Place{}
	if err := external.NewConnections(1).Take(t.Context(), nil, p); err != nil {
		t.Fatal(err)
	}
	d.session = &session{d: d, Session: &external.Session{Place: p, Epoch: 5, Held: []int64{held}, TellsPositions: true}}
	return d
}

// counts has the external database of a connected destination commit a batch.
func (d *Destination) counts(b *batch) {
	for i, behind := range b.mappings {
		if behind {
			d.session.Held[i] = b.last
		}
	}
	d.shared.Acks.Release(d.count(b)...)
}

// readTo is a stream that was read up to a place.
type readTo wal.LSN

func (r readTo) Position() wal.LSN      { return wal.LSN(r) }
func (readTo) Restart()                 {}
func (readTo) State() replication.State { return replication.Streaming }

func deletedItem(tenant, id string) wal.Change {
	c := inserted(tenant, id)
	c.Kind, c.Old, c.New = wal.Delete, c.New, wal.Tuple{}
	return c
}
