package pgerror

import (
	"cmp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/fit"
)

// A server repeats values of rows in messages, under any SQLSTATE and in any quotes: "invalid input syntax for type integer: ...",
// "relation ... does not exist" of a cast to regclass, whatever a trigger says with RAISE. No pattern tells a value from a name. WithoutValues
// therefore keeps a message only where the report of the server shows that the message has no value, and else names the condition.

// WithoutValues is the error of a server that was given rows, fit for a log, an API and the notes on the primary. The message of the server
// stays where the message cannot have a value of a row:
//   - of a place in the statement's own text (the Postgres manual, 55.8, field P): the server found the fault while it read the statement. Faults
//     in functions, in dynamic SQL and in values have no such place (function_parse_error_transpose in pg_proc.c, _SPI_error_callback in spi.c,
//     pts_error_callback in parse_type.c).
//   - of a routine of the server whose messages have only names and numbers of the catalog: see named.
//   - of a DDL command, outside of any function: see definitions.
//
// All other messages stay in the log of that server. All fields are bounded. A wrapped error is returned as is: the caller that asks the server
// calls WithoutValues before wrapping.
func WithoutValues(err error) error {
	pgErr, ok := err.(*pgconn.PgError) //nolint:errorlint // a wrapped error has the text in its own
	if !ok {
		return err
	}
	told := bounded(pgErr)
	if pgErr.Position > 0 {
		return told
	}
	told.Detail, told.Hint = "", ""
	if slices.Contains(named, pgErr.Routine) || pgErr.Where == "" && slices.Contains(definitions, pgErr.File) {
		return told
	}
	told.Message = cmp.Or(conditions[told.Code], conditions[told.Code[:2]], "an error") +
		"; the message may have values of rows, and is in the log of that server"
	told.ConstraintName, told.ColumnName, told.TableName, told.SchemaName, told.DataTypeName = "", "", "", "", ""
	return told
}

// Bounded is the error of a server that was given no rows: the whole message, detail and hint, fit for the places of messages. A wrapped error is returned
// as is.
func Bounded(err error) error {
	pgErr, ok := err.(*pgconn.PgError) //nolint:errorlint // a wrapped error has the text in its own
	if !ok {
		return err
	}
	return bounded(pgErr)
}

// bounded leaves out fields without a reader: the context, and the text of an inner query, repeat values of rows.
func bounded(e *pgconn.PgError) *pgconn.PgError {
	told := &pgconn.PgError{Severity: fit.Text(cmp.Or(e.SeverityUnlocalized, e.Severity), 16), Code: e.Code, Position: e.Position,
		Message: fit.Text(e.Message, fit.Reason), Detail: fit.Text(e.Detail, fit.Reason), Hint: fit.Text(e.Hint, fit.Reason),
		ConstraintName: fit.Text(e.ConstraintName, fit.Value), ColumnName: fit.Text(e.ColumnName, fit.Value), TableName: fit.Text(e.TableName, fit.Value),
		SchemaName: fit.Text(e.SchemaName, fit.Value), DataTypeName: fit.Text(e.DataTypeName, fit.Value),
		File: fit.Text(e.File, fit.Value), Routine: fit.Text(e.Routine, fit.Value)}
	if len(told.Code) != 5 || strings.ContainsFunc(told.Code, func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') }) {
		told.Code = "XX000" // only a hostile server sends another code
	}
	return told
}

// named are routines of the server whose messages have names and numbers of the catalog, and no value of a row.
var named = []string{
	// Constraints: nbtinsert.c, execIndexing.c, execMain.c, execExprInterp.c, ri_triggers.c, execPartition.c, domains.c
	"_bt_check_unique", "check_exclusion_or_unique_constraint", "ExecConstraints", "ReportNotNullViolationError", "ExecPartitionCheckEmitError",
	"ExecWithCheckOptions", "ExecEvalConstraintCheck", "ExecEvalConstraintNotNull", "domain_check_input", "ri_ReportViolation", "ExecFindPartition",
	// Lengths and ranges, which name the type: varchar.c, varbit.c, int.c, int8.c, numeric.c, float.c
	"varchar", "varchar_input", "bpchar", "bpchar_input", "varbit", "bit", "int2div", "int4div", "int8div", "numeric_div", "div_var", "float_zero_divide_error",
	"int4pl", "int4mi", "int4mul", "int8pl", "int8mi", "int8mul", "float_overflow_error", "float_underflow_error",
	// Rights and row security: aclchk.c, rls.c
	"aclcheck_error", "check_enable_rls",
	// Time, locks, shutting down and starting: postgres.c, deadlock.c, proc.c, heapam_xlog.c, postmaster.c, backend_startup.c, utility.c, xact.c
	"ProcessInterrupts", "DeadLockReport", "ProcSleep", "LockAcquireExtended", "ProcessStartupPacket", "BackendInitialize", "PreventCommandIfReadOnly",
	"PreventInTransactionBlock", "check_conn_params", "exec_parse_message", "FetchPreparedStatement", "StorePreparedStatement", "exec_bind_message",
	"exec_execute_message", "exec_simple_query", "RequireTransactionBlock", "ExecCheckXactReadOnly",
	// Serialization: nodeModifyTable.c, heapam.c, nodeLockRows.c, predicate.c, trigger.c
	"ExecUpdate", "ExecDelete", "ExecLockRows", "ExecOnConflictUpdate", "GetTupleForTrigger", "CheckForSerializableConflictOut", "OnConflict_CheckForSerializationFailure",
	"PreCommit_CheckForSerializationFailure",
	// Space and memory: md.c, aset.c, nbtutils.c, sinvaladt.c, shmem.c
	"mdextend", "mdwritev", "mdwrite", "FileWrite", "AllocSetAlloc", "AllocSetRealloc", "AllocSetAllocLarge", "_bt_check_third_page", "MemoryContextAllocationFailure",
	// A table whose columns were changed meanwhile: plancache.c
	"RevalidateCachedQuery",
}

// definitions are the files of the server with the commands that define tables, whose messages have the names in the command. namespace.c is
// not among them (a cast to regclass looks up a value there), nor sequence.c (setval).
var definitions = []string{"tablecmds.c", "heap.c", "indexcmds.c", "index.c", "typecmds.c", "functioncmds.c", "pg_type.c", "pg_constraint.c", "pg_proc.c",
	"aclchk.c", "dependency.c", "view.c", "trigger.c", "schemacmds.c", "extension.c", "policy.c", "rewriteHandler.c"}

// conditions name SQLSTATEs and their classes (the Postgres manual, appendix A).
var conditions = map[string]string{
	"08": "connection exception", "0A": "feature not supported", "21": "cardinality violation", "22": "data exception", "23": "integrity constraint violation",
	"25": "invalid transaction state", "28": "invalid authorization", "2F": "SQL routine exception", "34": "invalid cursor name", "3D": "invalid catalog name",
	"3F": "invalid schema name", "40": "transaction rollback", "42": "syntax error or access rule violation", "44": "with check option violation",
	"53": "insufficient resources", "54": "program limit exceeded", "55": "object not in prerequisite state", "57": "operator intervention",
	"58": "system error", "P0": "PL/pgSQL error", "XX": "internal error", "HV": "foreign data wrapper error", "38": "external routine exception", "39": "external routine invocation exception",
	"22001": "string data right truncation", "22003": "numeric value out of range", "22004": "null value not allowed", "22007": "invalid datetime format",
	"22008": "datetime field overflow", "22012": "division by zero", "22021": "character not in repertoire", "22023": "invalid parameter value",
	"22026": "string data length mismatch", "22030": "duplicate JSON object key value", "22032": "invalid JSON text", "22P02": "invalid text representation",
	"22P03": "invalid binary representation", "22P05": "untranslatable character", "2200M": "invalid XML document",
	"23502": "not null violation", "23503": "foreign key violation", "23505": "unique violation", "23514": "check violation", "23P01": "exclusion violation",
	"40001": "serialization failure", "40P01": "deadlock detected", "42501": "insufficient privilege", "42601": "syntax error", "42602": "invalid name",
	"42622": "name too long", "42703": "undefined column", "42704": "undefined object", "42804": "datatype mismatch", "42830": "invalid foreign key", "42846": "cannot coerce",
	"42883": "undefined function", "42P01": "undefined table", "42P07": "duplicate table", "42710": "duplicate object", "55000": "object not in prerequisite state",
	"55P03": "lock not available", "57014": "query canceled", "P0001": "an exception was raised", "P0002": "no data found", "P0003": "too many rows", "P0004": "assert failure",
}
