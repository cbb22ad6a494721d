// Package liar has lying Postgres servers, for tests. A server answers at each step with the right answer or, at a rate and by a seed, with a
// lie: wrong lengths and counts, values of other types, errors with hostile text, floods, silence, false statuses and tags, messages out of
// place, endless rows.
//
// A server with no real server behind logs everybody in, or nobody, and makes up its rows. A server before a real server lies about the real
// answers, so that the lies reach the states behind a login, a metadata table and a batch.
package liar
