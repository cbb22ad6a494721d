package primary

import (
	"context"
	"fmt"

	"github.com/jackc/pglogrepl"

	"outflow/replication/wal"
)

// Source is the row of outflow.source on the primary about a slot: the history of the slot's LSNs.
type Source struct {
	ID           string // uuid of the installation; external databases carry the uuid in their metadata as the owner
	SystemID     string // system identifier of the cluster
	Timeline     int32
	SequenceBase int64 // added to every commit LSN; 0 on a new installation

	Covered wal.LSN // every destination is copied from the tables after this place: see [Gap]

	noted     wal.LSN // outflow.source.flush_lsn: noted just before the confirmation
	resetting bool    // a reset of the slot was begun and not finished

	relied facts // found or made by Ensure
}

// SequenceID is the id of the transaction committed at the LSN.
func (s Source) SequenceID(commit wal.LSN) int64 { return s.SequenceBase + int64(min(commit, maxLSN)) }

// baseFits reports whether every id is an int64: see maxBase.
func (s Source) baseFits() bool { return s.SequenceBase >= -maxBase && s.SequenceBase <= maxBase }

// Knows reports whether the relation is a configured table, or a partition of one, by the facts found or made by Ensure.
func (s Source) Knows(oid uint32) bool { return s.relied.has(oid) }

// Check refuses a server whose WAL is not the WAL of the given sequence ids.
func (s Source) Check(systemID string, timeline int32) error {
	if systemID == s.SystemID && timeline == s.Timeline {
		return nil
	}
	return &Problem{
		What: fmt.Sprintf("the primary is not the one that outflow.source describes: system identifier %s, timeline %d; expected %s, %d",
			systemID, timeline, s.SystemID, s.Timeline),
		Remedy: "a standby was promoted, or another cluster answers at this address: the histories cannot be proved " +
			"continuous. Point source.dsn at the original primary, or run: " + ResetCommand,
	}
}

// identify asks the server for the history of the WAL. Only a replication connection tells the current timeline.
func (s *Server) identify(ctx context.Context) (Source, error) {
	conn, err := s.connectReplication(ctx)
	if err != nil {
		return Source{}, ExplainConnect(s, err)
	}
	defer conn.Close(ctx)
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	return Source{SystemID: id.SystemID, Timeline: id.Timeline}, err
}
