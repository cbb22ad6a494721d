package replication

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that Outflow tells apart (the Postgres manual, appendix A).
const (
	objectInUse          = "55006"
	undefinedObject      = "42704"
	undefinedTable       = "42P01"
	undefinedColumn      = "42703"
	notInPrerequisite    = "55000"
	insufficientRights   = "42501"
	configLimitExceeded  = "53400"
	invalidAuth          = "28000"
	invalidPassword      = "28P01"
	unknownDatabase      = "3D000"
	tooManyConnections   = "53300"
	readOnlyTransaction  = "25006"
	untranslatable       = "22P05"
	serializationFailure = "40001"
)

// sqlstate is the SQLSTATE of a server's error, also where the error is wrapped; "" where no server sent the error.
func sqlstate(err error) string {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}
