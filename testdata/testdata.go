// Package testdata holds the application's schema that Outflow's defaults are made for. The demo and the tests use it.
package testdata

import _ "embed" // for the schema

// Schema is schema.sql.
//
//go:embed schema.sql
var Schema string
