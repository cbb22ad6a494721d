// Package admin is the front of the control plane: status API, dashboard, metrics and probes, on one HTTP server.
//
// The server reads the state of the sink and the reader at each request, and owns none of the state. Once a second a sampler
// looks at all destinations: rates, sparklines and recent errors come from there. Actions (pause, resume, resync, switches)
// are written to the primary, where every process, this process included, notices the actions; so a standby's dashboard
// works as well.
//
// The server lives as long as the process: before the primary is reachable, as a standby, and over restarts of the pipeline,
// which [Server.Attach] hands over.
//
// # What the package guarantees
//
//   - An answer never waits for a database, but for an action, which has actionTimeout to write to the primary. A dead primary or a hung
//     external database delays neither /livez nor /readyz nor the dashboard.
//   - An accepted action (202) is committed on the primary. The process that reads the slot carries it out, this process or another one, now or
//     after the next start.
//   - Memory and goroutines are bounded: maxConnections connections, maxEvents streams of events, headers of 16 KiB, bodies of one JSON
//     value, pages of a list. A snapshot of all destinations serves every request of the next 200 ms.
//   - [Server.Run] returns after the last goroutine has ended, shutdownTimeout after its context at the latest.
//
// A Server is safe for concurrent use. Four locks guard four things: mu the pipeline, lookMu the last snapshot, loginMu the count of failed
// logins, notesMu the notes. The order is lookMu, then mu or notesMu (while a snapshot is taken), then the sampler's own lock.
//
// # Security
//
// Without a token the server listens on loopback only. With a token, everything but /livez and /readyz needs the token: as
// "Authorization: Bearer" or, for the dashboard, as a cookie that a login form sets. The API does not accept the cookie. GET
// changes nothing; pages of other sites may use no other method. A Host header with a name must be known; otherwise a page on a foreign
// name that resolves to the server's address could read everything (DNS rebinding). Texts of servers and tenants' names are hostile:
// they are escaped, truncated, and never a metric's label, except a tenant's name with admin.tenant_metrics.
//
// # Metrics
//
// The server reads all values at the time of the scrape; the counters of a pipeline start at 0 with the pipeline. Unknown values are left
// out. A standby has outflow_destinations, _in_sync, _detached and outflow_destination_state as noted on the primary by the
// process that reads the slot, and leaves out values that only the reading process knows: lag, queues, and the numbers read,
// applied and copied.
//
//	outflow_build_info{version}                  1
//	outflow_ready                                1 if /readyz says yes
//	outflow_role{role}                           1 for connecting, standby or streaming, 0 for the others
//	outflow_health{state}                        1 for healthy, degraded or failing, 0 for the others
//	outflow_slot_active                          1 if a process reads the slot
//	outflow_slot_wal_status{wal_status}          1 for reserved, extended, unreserved or lost, 0 for the others
//	outflow_slot_retained_bytes                  WAL kept by the primary for the slot
//	outflow_slot_safe_bytes                      WAL that may still be written before the slot is lost; left out: no limit
//	outflow_slot_checked_timestamp_seconds       when the four above were read
//	outflow_lag_bytes                            unacknowledged WAL of the primary
//	outflow_lag_seconds                          age of the oldest waiting transaction, of the worst streaming destination; left
//	                                             out if none streams
//	outflow_lag_p50_seconds                      the same of the median of the streaming destinations
//	outflow_lag_p99_seconds                      the same of 99 of 100 of the streaming destinations
//	outflow_heartbeat_latency_seconds            from written on the primary to read here, last heartbeat
//	outflow_heartbeat_timestamp_seconds          when the last heartbeat came
//	outflow_outstanding_transactions             read and not acknowledged
//	outflow_table_changes_total{table,operation} read from the stream: insert, update, delete, truncate; skipped: without a destination, on purpose
//	outflow_applied_rows_total                   net changes committed in external databases
//	outflow_applied_transactions_total           source transactions committed there
//	outflow_applied_batches_total                external transactions
//	outflow_foreign_rows_total                   rows of another tenant refused by a destination: a fault of the program
//	outflow_destination_failures_total           failed attempts of all destinations
//	outflow_destinations{state}                  number by state: backfilling, streaming, retrying, parked, paused, halted
//	outflow_destinations_in_sync                 number streaming at most 10 s behind; of a standby: number streaming, left
//	                                             out where no process reads the slot
//	outflow_destinations_detached                number that the stream goes on without: copied again when they take rows again
//	outflow_noted_timestamp_seconds              when the notes on the primary were read; only where this process does not read the slot
//	outflow_slot_reader{host}                    1 for the machine of the process that reads the slot; only where that is another one
//	outflow_destinations_failing{class}          failing destinations by class: see below
//	outflow_queue_transactions                   queued for all destinations
//	outflow_queue_changes
//	outflow_queue_bytes
//	outflow_queue_limit_bytes                    sink.memory_bytes
//	outflow_backfill_rows                        copied by the backfills in progress
//	outflow_backfill_estimated_rows              estimated total of the backfills in progress; left out if any has no estimate
//	outflow_switch_off{switch}                   1 if reading, applying or backfills is switched off
//	outflow_scrape_duration_seconds              time taken to read all metrics
//
// Classes of errors: dns, refused, blocked (by destinations.policy), tls, auth, timeout, protocol (the server is not Postgres, or
// went away), configuration, conflict (another writer), database, mapping, permission, row, constraint, resources, lock,
// shutdown, other.
//
// With admin.tenant_metrics each of these has one series a destination:
//
//	outflow_destination_state{tenant,destination,state}         1 for its state only
//	outflow_destination_lag_seconds{tenant,destination}
//	outflow_destination_queue_bytes{tenant,destination}
//	outflow_destination_attempts{tenant,destination}            failures in a row
//	outflow_destination_applied_rows_total{tenant,destination}
//
// In addition there are the usual go_ and process_ metrics.
//
// # Rejected
//
//   - A time series per destination by default: 10,000 destinations of 5 series would be the largest job of most Prometheus servers. The worst
//     destinations are in the API and on the dashboard, by name.
//   - Acting in this process without the primary: a standby could not act, and an action would be lost with the process.
//   - A JavaScript framework: the pages are server-rendered and work without scripts; one small script replaces parts of a page.
//   - Sessions in memory or in a database: the cookie is signed with the token, so every process accepts the cookie, and a changed token
//     ends all sessions.
//   - TLS in this server: certificates, their renewal and their reload belong to the proxy or ingress that every installation has already.
package admin
