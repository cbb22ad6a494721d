package pgerror

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that Outflow tells apart (the Postgres manual, appendix A).
const (
	ObjectInUse          = "55006"
	UndefinedObject      = "42704"
	UndefinedTable       = "42P01"
	UndefinedColumn      = "42703"
	NotInPrerequisite    = "55000"
	InsufficientRights   = "42501"
	ConfigLimitExceeded  = "53400"
	InvalidAuth          = "28000"
	InvalidPassword      = "28P01"
	UnknownDatabase      = "3D000"
	TooManyConnections   = "53300"
	Untranslatable       = "22P05"
	SerializationFailure = "40001"
)

// SQLState is the SQLSTATE of a server's error, also where the error is wrapped; "" where no server sent the error.
func SQLState(err error) string {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}
