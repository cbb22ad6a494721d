// Package testdata holds the application's schema, the base of Outflow's defaults. The demo and the tests use the schema.
package testdata

import _ "embed" // for the schema

// Schema is schema.sql.
//
//go:embed schema.sql
var Schema string
