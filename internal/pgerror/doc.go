// Package pgerror knows the errors of any Postgres server, the primary or a tenant's: SQLSTATEs, errors without values of rows, remedies for
// TLS. The package has functions only, all pure.
package pgerror
