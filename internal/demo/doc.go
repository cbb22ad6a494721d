// Package demo shows the whole system at work on throwaway servers: outflow demo.
//
// [Run] starts two Postgres servers, opens the same pipeline and dashboard as outflow run, writes a mixed load to the primary, stops the load, waits until the
// external databases have everything, and compares them with the primary by SQL that shares nothing with Outflow: no mapping, no decoder. Run removes what
// it has made, also after an error and when the context is done, unless the servers are to be kept.
package demo
