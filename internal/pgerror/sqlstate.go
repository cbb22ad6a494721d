package pgerror

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that Outflow tells apart (the Postgres manual, appendix A).
const (
	ObjectInUse            = "55006"
	UndefinedObject        = "42704"
	UndefinedTable         = "42P01"
	UndefinedColumn        = "42703"
	NotInPrerequisite      = "55000"
	InsufficientRights     = "42501"
	ConfigLimitExceeded    = "53400"
	InvalidAuth            = "28000"
	InvalidPassword        = "28P01"
	UnknownDatabase        = "3D000"
	TooManyConnections     = "53300"
	Untranslatable         = "22P05"
	SerializationFailure   = "40001"
	ActiveTransaction      = "25001"
	CannotCoerce           = "42846"
	DeadlockDetected       = "40P01"
	DiskFull               = "53100"
	DivisionByZero         = "22012"
	DuplicatePrepared      = "42P05"
	ExclusionViolation     = "23P01"
	ForeignKeyViolation    = "23503"
	GeneratedAlways        = "428C9"
	IdleTransactionTimeout = "25P03"
	LockNotAvailable       = "55P03"
	OutOfMemory            = "53200"
	QueryCanceled          = "57014"
	ReadOnlyTransaction    = "25006"
	UniqueViolation        = "23505"
	UnknownPrepared        = "26000"
)

// SQLState is the SQLSTATE of a server's error, also where the error is wrapped; "" where no server sent the error.
func SQLState(err error) string {
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}
