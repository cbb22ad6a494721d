// Package demo shows the whole system at work on throwaway servers, for outflow demo.
//
// [Run] starts two Postgres servers, opens the same pipeline and dashboard as outflow run, writes a mixed load to the primary, stops the load, waits
// until the external databases have everything, and compares them with the primary. The comparison is SQL that shares nothing with Outflow: no
// mapping, no decoder. Run removes the servers, also after an error and when the context is done, unless the options say to keep the servers.
package demo
