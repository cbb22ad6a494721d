package primary

import (
	"context"
	"errors"
	"fmt"
	"time"

	"outflow/replication/wal"
)

// questionPatience bounds a question to the primary on a connection beside the stream.
const questionPatience = 20 * time.Second

// Refusal tells of a server which answers and takes no writes: a standby stands in the primary's place (a standby has no slot, or does not
// decode), or the primary is read-only. A failover or the end of a maintenance ends both. Refusal returns nil for any other server. Refusal asks
// on a connection of its own, for a bounded time.
func (s *Server) Refusal(ctx context.Context) *Problem {
	ctx, cancel := context.WithTimeout(ctx, questionPatience)
	defer cancel()
	conn, failed := s.Connect(ctx)
	if failed != nil {
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var standby, readOnly bool
	failed = conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool`).Scan(&standby, &readOnly)
	switch {
	case failed != nil:
		return nil
	case standby:
		return isStandby(conn)
	case readOnly:
		return isReadOnly(s.User())
	}
	return nil
}

// Lost tells why the server has invalidated the slot, or why the slot is not Outflow's; nil where Outflow can read the slot, or where the
// primary does not answer. Lost asks on a connection of its own, for a bounded time.
func (s Slot) Lost(ctx context.Context) *Problem {
	ctx, cancel := context.WithTimeout(ctx, questionPatience)
	defer cancel()
	conn, err := s.Server.Connect(ctx)
	if err != nil {
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, _, err = s.find(ctx, conn)
	problem := (*Problem)(nil)
	errors.As(err, &problem)
	return problem
}

// Confirmed is the slot's confirmed flush LSN; found is false where there is no such slot. Confirmed asks on a connection of its own, for a
// bounded time.
func (s Slot) Confirmed(ctx context.Context) (confirmed wal.LSN, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, questionPatience)
	defer cancel()
	conn, err := s.Server.Connect(ctx)
	if err != nil {
		return 0, false, ExplainConnect(s.Server, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return s.find(ctx, conn)
}

// Resolve completes a relation of the stream with facts only in the catalog. Resolve asks on a connection of its own, for a
// bounded time: the reader waits, once a table and session.
func (s *Server) Resolve(r *wal.Relation) error {
	ctx, cancel := context.WithTimeout(context.Background(), questionPatience)
	defer cancel()
	conn, err := s.Connect(ctx)
	if err != nil {
		return fmt.Errorf("resolving the types of %s: %w", r, err)
	}
	defer conn.Close(ctx)
	return resolveRelation(ctx, conn, r)
}

// Stray is a [*Gap] where the table, whose changes the stream has, is neither published nor a partition, and no look has seen the table. Stray
// asks on a connection of its own, for a bounded time.
func (s Slot) Stray(publication string, rel *wal.Relation) error {
	ctx, cancel := context.WithTimeout(context.Background(), questionPatience)
	defer cancel()
	conn, err := s.Server.Connect(ctx)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", rel, err)
	}
	defer conn.Close(ctx)
	var known bool
	err = conn.QueryRow(ctx, `WITH a AS (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_ancestors($1::oid::regclass))
		SELECT EXISTS (SELECT FROM a JOIN pg_class c ON c.oid = a.oid
			JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_publication_tables p ON p.pubname = $2 AND p.schemaname = n.nspname AND p.tablename = c.relname)
		OR EXISTS (SELECT FROM outflow.source s, jsonb_path_query(s.relied, '$.tables[*].storage[*].oid') o WHERE s.slot = $3 AND o = to_jsonb($1::oid::bigint))
		OR EXISTS (SELECT FROM a, outflow.source s WHERE s.slot = $3 AND s.relied -> 'former' @> to_jsonb(a.oid::bigint))`,
		rel.OID, publication, s.Name).Scan(&known)
	switch {
	case err != nil:
		return fmt.Errorf("looking for %s: %w", rel, err)
	case !known:
		return &Gap{Reason: fmt.Sprintf("%s, whose changes are in the stream, is no longer published, nor a partition", rel), Unseen: true}
	}
	return nil
}

// Swapped is a [*Gap] where the name of a configured table is another table's on the primary now. Swapped asks on a connection of its own,
// for a bounded time.
func (s *Server) Swapped(rel *wal.Relation) error {
	ctx, cancel := context.WithTimeout(context.Background(), questionPatience)
	defer cancel()
	conn, err := s.Connect(ctx)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", rel, err)
	}
	defer conn.Close(ctx)
	now, err := LoadTable(ctx, conn, rel.Schema, rel.Name)
	if err != nil || now != nil && now.Relation.OID == rel.OID {
		return err
	}
	return &Gap{Reason: fmt.Sprintf("table %s was replaced by another table of the same name", rel)}
}
