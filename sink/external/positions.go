package external

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"outflow/replication/wal"
)

// A server may refuse the role the positions in the WAL, or may lack the functions (a service without a WAL of the usual kind). Every batch there waits for the disk.
const (
	positionsSQL   = `pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn()`
	noPositionsSQL = `NULL, NULL`
)

// Positions are the external server's positions in its WAL: written, and flushed to the disk. The zero Positions are not known.
type Positions struct{ Insert, Flush wal.LSN }

// positionsOf reads the first two columns of a row; zero where the server does not tell both.
func positionsOf(row [][]byte) Positions {
	if len(row) < 2 {
		return Positions{}
	}
	insert, err := wal.ParseLSN(string(row[0]))
	if err != nil {
		return Positions{}
	}
	flush, err := wal.ParseLSN(string(row[1]))
	if err != nil {
		return Positions{}
	}
	return Positions{insert, flush}
}

// findPositions learns whether the server gives the positions in its WAL.
func (s *Session) findPositions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.db.Options.ConnectTimeout)
	defer cancel()
	_, err := s.AskRow(ctx, 2, `SELECT `+positionsSQL)
	if s.TellsPositions = err == nil; s.TellsPositions {
		s.settings = s.db.Options.settings(positionsSQL)
		return nil
	}
	s.settings = s.db.Options.settings(noPositionsSQL)
	if serverError(err) == nil {
		return err
	}
	s.db.Log.Info("the external server does not report its WAL positions: every batch waits for the disk", zap.Error(err))
	return nil
}

// AskPositions asks for the positions of a server that gives positions.
func (s *Session) AskPositions(ctx context.Context) (Positions, error) {
	row, err := s.AskRow(ctx, 2, `SELECT `+positionsSQL)
	if err != nil {
		return Positions{}, fmt.Errorf("asking how far the WAL is flushed: %w", s.unpositioned(err))
	}
	return positionsOf(row), nil
}

// unpositioned turns the server's refusal of a statement that asks for positions into a reason to connect again: the right to ask was revoked
// since.
func (s *Session) unpositioned(err error) error {
	if serverError(err) != nil && s.TellsPositions && AsError(err).Verdict == NeedsHuman {
		return &Error{Verdict: Retry, SQLState: SQLState(err), Err: fmt.Errorf("asking for the positions in the WAL: %w", err)}
	}
	return err
}

// flushSQL commits an update with a wait for the disk, and thereby flushes all commits before.
const flushSQL = `WITH waiting AS MATERIALIZED (SELECT pg_catalog.set_config('synchronous_commit', 'local', true) AS is)
	UPDATE public."_stack_sync_metadata" SET "updated_at" = "updated_at" FROM waiting WHERE waiting.is = 'local' AND "mapping_name" = ANY ($1::text[])`

// FlushAll has the server flush all commits before.
func (s *Session) FlushAll(ctx context.Context) error {
	if err := s.Exec(ctx, flushSQL, s.names()); err != nil {
		return fmt.Errorf("flushing the WAL: %w", err)
	}
	return nil
}
