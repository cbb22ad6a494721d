// Package liar has lying Postgres servers, for tests. A server answers at each step with the right answer or, at a rate and by a seed, with a
// lie: wrong lengths and counts, values of other types, errors with hostile text, floods, silence, false statuses and tags, messages out of
// place, endless rows.
//
// A server with no real server behind it accepts every login, or none, and makes up its rows. A server in front of a real server lies about the
// real answers, so that the lies reach the states behind a login, a metadata table and a batch.
//
// # What the package guarantees
//
//   - The lies of a connection follow from the seed and the number of the connection: a failing seed tells the same lies again, as long as
//     the client asks the same questions.
//   - Each kind of lie has a name, and [Server.Told] counts the lies, so a test can demand that every kind was told.
//   - A lie ends by itself: silence after a minute, endless rows after about a gigabyte, and a client that stops reading after 10 s.
//   - Close ends all connections and returns after the last goroutine has ended.
//
// A Server is safe for concurrent use. A mouth, the state of one connection, belongs to the connection's goroutine.
//
// # Rejected
//
//   - Recorded sessions with edits: they break with every change of a statement, and never reach the states that come later.
//   - Fuzzing pgx's reader alone: the faults that were found sat behind the reader, where counts, ids and texts are used.
package liar
