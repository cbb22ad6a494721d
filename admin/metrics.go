package admin

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"outflow/admin/monitor"
	"outflow/replication"
	"outflow/sink/ledger"
)

// collector reads the state at the scrape: nothing is counted for a scrape while changes flow.
type collector struct {
	server *Server
	all    map[string]*prometheus.Desc
}

// newRegistry registers this server as one collector: every scrape reads all values from one snapshot, so that they fit together.
func (s *Server) newRegistry() *prometheus.Registry {
	c := &collector{s, map[string]*prometheus.Desc{}}
	for _, m := range families {
		c.all[m.name] = prometheus.NewDesc("outflow_"+m.name, m.help, m.labels, nil)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// families are the metrics of doc.go.
var families = []struct {
	name, help string
	labels     []string
}{
	{"build_info", "1, with the version of the program.", []string{"version"}},
	{"ready", "1 if the process streams or waits as a standby.", nil},
	{"role", "1 for the role of the process: connecting, standby or streaming.", []string{"role"}},
	{"health", "1 for the health of the process, as shown on the dashboard.", []string{"state"}},
	{"slot_active", "1 if a process reads the slot.", nil},
	{"slot_wal_status", "1 for the slot's wal_status.", []string{"wal_status"}},
	{"slot_retained_bytes", "WAL that the primary retains for the slot.", nil},
	{"slot_safe_bytes", "WAL that may still be written before the slot is lost.", nil},
	{"slot_checked_timestamp_seconds", "When the state of the slot was last read.", nil},
	{"lag_bytes", "WAL of the primary that is not acknowledged yet.", nil},
	{"lag_seconds", "Age of the oldest waiting transaction: the worst of the destinations that stream.", nil},
	{"lag_p50_seconds", "Age of the oldest waiting transaction: the median of the destinations that stream.", nil},
	{"lag_p99_seconds", "Age of the oldest waiting transaction: the 99th percentile of the destinations that stream.", nil},
	{"heartbeat_latency_seconds", "Time from writing the last heartbeat on the primary to reading it from the stream.", nil},
	{"heartbeat_timestamp_seconds", "When the last heartbeat was read from the stream.", nil},
	{"outstanding_transactions", "Transactions that were read and are not acknowledged yet.", nil},
	{"table_changes_total", "Changes read from the stream.", []string{"table", "operation"}},
	{"applied_rows_total", "Net changes committed in external databases.", nil},
	{"applied_transactions_total", "Transactions of the primary committed in external databases.", nil},
	{"applied_batches_total", "Transactions committed in external databases.", nil},
	{"foreign_rows_total", "Rows of another tenant that a destination refused: a bug in Outflow.", nil},
	{"destination_failures_total", "Failed attempts of all destinations.", nil},
	{"destinations", "Destinations by state.", []string{"state"}},
	{"destinations_in_sync", "Destinations that stream and are at most 10 s behind.", nil},
	{"destinations_detached", "Destinations that are parked or detached: the stream goes on without them.", nil},
	{"noted_timestamp_seconds", "When this process, which does not read the slot, read the notes on the primary.", nil},
	{"slot_reader", "1 for the machine of the process that reads the slot, as noted on the primary.", []string{"host"}},
	{"destinations_failing", "Failing destinations by class of error.", []string{"class"}},
	{"queue_transactions", "Transactions queued for all destinations.", nil},
	{"queue_changes", "Changes queued for all destinations.", nil},
	{"queue_bytes", "Bytes queued for all destinations.", nil},
	{"queue_limit_bytes", "Memory budget of all queues.", nil},
	{"backfill_rows", "Rows copied by the backfills in progress.", nil},
	{"backfill_estimated_rows", "Estimated total of rows of the backfills in progress.", nil},
	{"switch_off", "1 if the switch is off.", []string{"switch"}},
	{"scrape_duration_seconds", "Time to collect these metrics.", nil},
	{"destination_state", "1 for the destination's state.", []string{"tenant", "destination", "state"}},
	{"destination_lag_seconds", "Age of the destination's oldest waiting transaction.", []string{"tenant", "destination"}},
	{"destination_queue_bytes", "Bytes queued for the destination.", []string{"tenant", "destination"}},
	{"destination_attempts", "Consecutive failures of the destination.", []string{"tenant", "destination"}},
	{"destination_applied_rows_total", "Net changes committed in the destination.", []string{"tenant", "destination"}},
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.all {
		out <- d
	}
}

// scrape is one collection.
type scrape struct {
	*collector
	*monitor.Snapshot
	out chan<- prometheus.Metric
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	started := time.Now()
	s := &scrape{c, c.server.look(), out}
	s.process()
	if s.Pipeline != nil {
		s.slot()
		s.summary()
		if s.Noted == nil { // else another process counts
			s.stream()
			s.destinations()
		}
		if c.server.TenantMetrics {
			s.tenants()
		}
	}
	s.gauge("scrape_duration_seconds", time.Since(started).Seconds())
}

// gauge sends a value that may rise and fall.
func (s *scrape) gauge(name string, value float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(s.all[name], prometheus.GaugeValue, value, labels...)
}

// counter sends a number that only rises while the pipeline lives.
func (s *scrape) counter(name string, value int64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(s.all[name], prometheus.CounterValue, float64(value), labels...)
}

// maybe leaves out unknown values.
func (s *scrape) maybe(name string, value *float64) {
	if value != nil {
		s.gauge(name, *value)
	}
}

// maybeBytes sends nothing for nil: an unknown value that is sent as 0 would end an alert.
func (s *scrape) maybeBytes(name string, value *int64) {
	if value != nil {
		s.gauge(name, float64(*value))
	}
}

// maybeTime sends a time in seconds since 1970, or nothing for nil.
func (s *scrape) maybeTime(name string, value *time.Time) {
	if value != nil {
		s.gauge(name, float64(value.UnixNano())/1e9)
	}
}

// one is 1 for yes, as Prometheus has no booleans.
func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func (s *scrape) process() {
	s.gauge("build_info", 1, s.Version)
	s.gauge("ready", one(s.Ready))
	for _, role := range []replication.State{replication.Connecting, replication.Standby, replication.Streaming} {
		s.gauge("role", one(string(s.Role) == role.String()), role.String())
	}
	for _, h := range []monitor.Health{monitor.Healthy, monitor.Degraded, monitor.Failing} {
		s.gauge("health", one(s.State == h), string(h))
	}
	for _, sw := range s.Switches {
		if sw.Name != ledger.SwitchDestination {
			s.gauge("switch_off", one(sw.Off), sw.Name)
		}
	}
}

func (s *scrape) slot() {
	slot := &s.Slot
	s.maybeTime("slot_checked_timestamp_seconds", slot.CheckedAt)
	if slot.Active != nil {
		s.gauge("slot_active", one(*slot.Active))
	}
	for _, status := range []string{"reserved", "extended", "unreserved", "lost"} {
		if slot.WALStatus != nil {
			s.gauge("slot_wal_status", one(status == *slot.WALStatus), status)
		}
	}
	s.maybeBytes("slot_retained_bytes", slot.RetainedBytes)
	s.maybeBytes("slot_safe_bytes", slot.SafeBytes)
	if slot.Outstanding != nil {
		s.gauge("outstanding_transactions", float64(*slot.Outstanding))
	}
	s.maybeBytes("lag_bytes", s.Lag.Bytes)
	s.maybe("lag_seconds", s.Lag.Seconds)
	s.maybe("lag_p50_seconds", s.Lag.P50Seconds)
	s.maybe("lag_p99_seconds", s.Lag.P99Seconds)
	s.maybe("heartbeat_latency_seconds", s.Lag.EndToEndSeconds)
	s.maybeTime("heartbeat_timestamp_seconds", s.Lag.EndToEndAt)
}

func (s *scrape) stream() {
	for _, t := range s.Pipeline.Tables() {
		s.counter("table_changes_total", t.Inserts, t.Name, "insert")
		s.counter("table_changes_total", t.Updates, t.Name, "update")
		s.counter("table_changes_total", t.Deletes, t.Name, "delete")
		s.counter("table_changes_total", t.Truncates, t.Name, "truncate")
		s.counter("table_changes_total", t.Skipped, t.Name, "skipped")
	}
	s.counter("applied_rows_total", s.Totals.Rows)
	s.counter("applied_transactions_total", s.Totals.Transactions)
	s.counter("applied_batches_total", s.Totals.Batches)
	s.counter("foreign_rows_total", s.Pipeline.Router.ForeignRows())
	s.counter("destination_failures_total", s.Totals.Failures)
	s.gauge("queue_transactions", float64(s.Queue.Transactions))
	s.gauge("queue_changes", float64(s.Queue.Changes))
	s.gauge("queue_bytes", float64(s.Queue.Bytes))
	s.maybeBytes("queue_limit_bytes", s.Queue.LimitBytes)
}

// summary is the knowledge of this process, or of the process reading the slot, about all destinations.
func (s *scrape) summary() {
	if n := s.Noted; n != nil {
		if n.Error != nil || n.At == nil {
			return
		}
		s.maybeTime("noted_timestamp_seconds", n.At)
		if n.Reader != nil && n.Reader.Host != nil {
			s.gauge("slot_reader", 1, *n.Reader.Host)
		}
	}
	for state, n := range s.Destinations {
		s.gauge("destinations", float64(n), state)
	}
	if s.InSync != nil {
		s.gauge("destinations_in_sync", float64(*s.InSync))
	}
	s.gauge("destinations_detached", float64(s.Detached))
}

func (s *scrape) destinations() {
	failing := map[string]int{}
	copied, estimated, allEstimated := int64(0), int64(0), true
	for i := range s.Rows {
		r := &s.Rows[i]
		if r.Err != nil {
			failing[monitor.ClassOf(r.Err)]++
		}
		if r.State == ledger.Backfilling {
			copied += r.Copied
			estimated += max(r.CopyTotal, r.Copied)
			allEstimated = allEstimated && r.CopyTotal >= 0
		}
	}
	for _, class := range monitor.Classes {
		s.gauge("destinations_failing", float64(failing[class]), class)
	}
	s.gauge("backfill_rows", float64(copied))
	if allEstimated {
		s.gauge("backfill_estimated_rows", float64(estimated))
	}
}

func (s *scrape) tenants() {
	for _, d := range s.FromNotebook {
		s.gauge("destination_state", 1, label(d.Tenant), label(d.Name), d.State)
	}
	for i := range s.Rows {
		r := &s.Rows[i]
		tenant, name := label(r.Tenant), label(r.Name)
		s.gauge("destination_state", 1, tenant, name, string(r.State))
		if lag, ok := r.Lag(s.At); ok {
			s.gauge("destination_lag_seconds", lag, tenant, name)
		}
		s.gauge("destination_queue_bytes", float64(r.QueueBytes), tenant, name)
		s.gauge("destination_attempts", float64(r.Attempts), tenant, name)
		s.counter("destination_applied_rows_total", r.Rows, tenant, name)
	}
}

// label is a name fit for a label, which must be valid UTF-8. Names that differ stay different: two equal series would fail the whole scrape.
func label(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.QuoteToASCII(name)
}
