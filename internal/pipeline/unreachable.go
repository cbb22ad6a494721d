package pipeline

import (
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/config"
	"outflow/replication/primary"
)

// Unreachable tells a primary that is down, starting up, full, silent or lost in the middle of an answer from a refusing primary.
func Unreachable(err error) bool {
	if silent := (*primary.Silence)(nil); errors.As(err, &silent) {
		return true
	}
	if problem := (*primary.Problem)(nil); errors.As(err, &problem) || config.IsFault(err) {
		return false
	}
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code[:2] == "57" || pgErr.Code == "53300"
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.Timeout(err)
}
