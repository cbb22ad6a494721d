// Package external is one tenant's external database: how the database is dialed, what the database is asked and told, and what the errors of
// the database mean. The package knows no router, no queue and no primary: what must be known of the primary comes in arguments.
//
// # Types
//
//   - [DestinationSpec] is a destination as configured; [Database] is the external database of a specification, with its [Owner], its mappings
//     and the [Options] that bound each question.
//   - [Connections] is the budget of connections of all databases; a [Place] is the right to one connection.
//   - [Session] is one connection with its knowledge: how far each mapping is, the prepared statements, the order of the steps.
//   - [Round] is the statements of one round trip; several rounds may be under way on one [Pipeline].
//   - [Metadata] is what _stack_sync_metadata says: a contract with other programs, which read the first three columns.
//   - [KeysQuery] lists the keys that a mapping's tables hold, page by page.
//   - [Checker] finds out beforehand which faults would keep a database from being filled.
//
// # Guarantees
//
//   - Rows and metadata move in one transaction. [Round.Advance] compares and sets: the transaction fails unless the owner, the epoch, the
//     mapping's fingerprint and the id are as this process left them, and unless the transaction that began is the one that commits.
//   - A row of another tenant never becomes a parameter of a statement: [ForeignRowsError].
//   - A server may be hostile. Answers are bounded in bytes, rows and columns before they are kept, errors before they are logged, and no answer
//     ends the process. An error's text has no value of a row but for the keys that name the row.
//   - A question to a server is bounded in time by [Options.AnswerTimeout], a connection by [Options].ConnectTimeout.
//   - A statement depends on no setting of the server, the database or the role: each transaction sets all settings that matter.
//
// # States of a session
//
//	dialed ── metadata read, missing parts installed, steps prepared ──▶ ready ── begin ──▶ in a transaction ── commit, rollback ──▶ ready
//	any state ── lost connection, Close ──▶ closed
//
// After a failed round the session is rolled back and ready, unless a savepoint is set ([Session].KeepOpen) or the connection is lost.
//
// # Errors
//
// [AsError] decides the meaning of an error in one place: the [Verdict] says what to do, and [Error.Class] what the tenant may read. An error is
// wrapped once a hop and logged by the package's user.
//
// # Locks
//
// A Session has no lock: one goroutine at a time uses it. The lock of [Connections] is a leaf: the budget calls its users without the lock held.
//
// # Rejected designs
//
//   - A pool of pgx: the pool knows no fairness between databases that answer and databases that do not, and its prepared statements do not
//     survive poolers in transaction mode.
//   - Settings as start-up parameters: pgbouncer refuses start-up parameters, and a session's settings pass to another client in transaction mode.
//   - COPY for rows: a COPY takes no mapping, and no ON CONFLICT.
//   - Two-phase commit with the primary: a prepared transaction of a dead process keeps locks in the tenant's database for good.
package external
