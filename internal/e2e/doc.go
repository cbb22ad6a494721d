// Package e2e holds the end-to-end tests: pipelines inside the process, commands inside the process, and outflow as a process of its own, against
// real servers. The package has no code but tests.
//
// A world (harness_test.go) is a primary database with the application's schema, external databases, and a configuration; a running is a pipeline in this
// process; a process is outflow, for which the test binary stands in (process_test.go). Tests wait for conditions (waitFor) and never for a time. Tests that
// choose at random print a seed; OUTFLOW_TEST_SEED repeats the choices.
package e2e
