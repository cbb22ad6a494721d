package replication

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// SlotStatus asks the primary for the slot. [Watcher] does so by itself.
func (s Setup) SlotStatus(ctx context.Context, conn *pgx.Conn) (SlotStatus, error) {
	return s.slotStatus(ctx, conn)
}
