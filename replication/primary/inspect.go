package primary

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/pgerror"
	"outflow/replication/wal"
)

// oldestServer is the first readable version: `messages` of pgoutput, which bring the heartbeat, came with 14.
const oldestServer = 14

// serverFacts are the answer of a single query about the primary.
type serverFacts struct {
	version              string
	number               int
	recovery             bool
	level                string
	slots, maxSlots      int
	senders, maxSenders  int
	keepMB               int // max_slot_wal_keep_size; -1: no limit
	senderTimeout        int // milliseconds; 0: never
	idleSlotSeconds      int // idle_replication_slot_timeout of 18; 0: never
	clock                time.Time
	asked, answered      time.Time
	connections, allowed int
}

func readServer(ctx context.Context, conn *pgx.Conn) (f serverFacts, err error) {
	f.asked = time.Now()
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_is_in_recovery(),
			current_setting('wal_level'),
			(SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
			(SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
			coalesce((SELECT setting::int FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), -1),
			(SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout'),
			coalesce((SELECT setting::int * CASE unit WHEN 'min' THEN 60 ELSE 1 END FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0),
			clock_timestamp(), (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
			current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int`).
		Scan(&f.version, &f.number, &f.recovery, &f.level, &f.slots, &f.maxSlots, &f.senders, &f.maxSenders,
			&f.keepMB, &f.senderTimeout, &f.idleSlotSeconds, &f.clock, &f.connections, &f.allowed)
	f.answered = time.Now()
	if err != nil {
		return f, fmt.Errorf("reading the primary's settings: %w", err)
	}
	return f, nil
}

// Inspect finds obstacles to reading on the server. Inspect changes nothing, and only opens and closes a replication
// connection, as a reader would.
func (s *Server) Inspect(ctx context.Context, conn *pgx.Conn) Findings {
	var found Findings
	f, err := readServer(ctx, conn)
	if err != nil {
		found.Fault("server", err)
		return found
	}
	found.Pass("server", "PostgreSQL %s, as %s", f.version, conn.Config().User)
	if f.number/10000 < oldestServer {
		found.Fail("version", "upgrade the primary", "PostgreSQL %s is too old: Outflow needs version %d or newer", f.version, oldestServer)
	}
	if f.recovery {
		found.Fail("role of the server", "use the primary in source.dsn", "the server is a standby, so Outflow cannot write its notes there")
	}
	f.inspectLevel(ctx, conn, &found)
	s.inspectReplication(ctx, f, &found)
	f.inspectLimits(&found)
	return found
}

func (f serverFacts) inspectLevel(ctx context.Context, conn *pgx.Conn, found *Findings) {
	if f.level == "logical" {
		found.Pass("wal_level", "logical")
	} else {
		found.Fail("wal_level", "ALTER SYSTEM SET wal_level = logical, then restart the primary", "%q; logical replication needs \"logical\"", f.level)
	}
	switch attribute, err := mayReplicate(ctx, conn); {
	case err != nil:
		found.Fault("role", err)
	case attribute:
		found.Pass("role", "%s may replicate", conn.Config().User)
	default:
		found.Pass("role", "%s may replicate, although it lacks the attribute REPLICATION", conn.Config().User)
	}
}

// inspectReplication opens a walsender's session: only a session tells whether pg_hba.conf, max_wal_senders and a pooler in between let a
// reader through.
func (s *Server) inspectReplication(ctx context.Context, f serverFacts, found *Findings) {
	const check = "replication connection"
	settings, err := s.walsenderSettings(ctx)
	switch {
	case pgerror.SQLState(err) == pgerror.TooManyConnections && f.senders >= f.maxSenders:
		found.Fail(check, "raise max_wal_senders and restart the primary, or end an unused standby",
			"all %d walsenders (max_wal_senders) are in use", f.maxSenders)
		return
	case err != nil:
		found.Fault(check, ExplainConnect(s, err))
		return
	}
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(sessionSettings)) {
		if name == "client_encoding" && settings[name] == sqlASCII {
			found.Warn("encoding", "use a database with ENCODING 'UTF8'", "%s: the server checks no bytes, and an external database refuses a row with bytes that are not UTF-8", sqlASCII)
		} else if got := settings[name]; !strings.EqualFold(got, sessionSettings[name]) {
			wrong = append(wrong, fmt.Sprintf("%s is %q, not %q", name, got, sessionSettings[name]))
		}
	}
	if len(wrong) > 0 {
		found.Fail("walsender settings", "connect to the server itself: a pooler or proxy drops start-up parameters, so values would have the wrong format",
			"%s", strings.Join(wrong, "; "))
	} else {
		found.Pass(check, "pg_hba.conf admits the role, and the session prints values in the right format")
	}
	if free := f.maxSenders - f.senders; free < 2 {
		found.Warn("max_wal_senders", "raise max_wal_senders", "%d of %d in use: there is no room for a standby process", f.senders, f.maxSenders)
	} else {
		found.Pass("max_wal_senders", "%d of %d in use", f.senders, f.maxSenders)
	}
	if f.senderTimeout > 0 && f.senderTimeout < 5000 {
		found.Warn("wal_sender_timeout", "raise it to 30s or more", "%d ms: a short network outage ends the stream", f.senderTimeout)
	}
}

// walsenderSettings opens a replication connection and returns the settings for printing values.
func (s *Server) walsenderSettings(ctx context.Context) (map[string]string, error) {
	conn, err := s.connectReplication(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := pglogrepl.IdentifySystem(ctx, conn); err != nil {
		return nil, err
	}
	settings := map[string]string{}
	for name := range sessionSettings {
		if settings[name], err = setting(ctx, conn, name); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

// setting reads a setting of a walsender's session. A pooler or a proxy in between may answer anything.
func setting(ctx context.Context, conn *pgconn.PgConn, name string) (string, error) {
	results, err := conn.Exec(ctx, "SHOW "+name).ReadAll()
	if err == nil && (len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1) {
		err = errors.New("the server returns no such row")
	}
	if err != nil {
		return "", fmt.Errorf("SHOW %s: %w", name, err)
	}
	return string(results[0].Rows[0][0]), nil
}

// clockPatience is how far two clocks may be apart before lags in seconds mislead.
const clockPatience = 5 * time.Second

func (f serverFacts) inspectLimits(found *Findings) {
	if f.keepMB < 0 {
		found.Warn("max_slot_wal_keep_size", "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB' (less than the disk has free), then SELECT pg_reload_conf()",
			"no limit: while outflow is down, the primary retains WAL until its disk is full")
	} else {
		found.Pass("max_slot_wal_keep_size", "%d MB", f.keepMB)
	}
	if f.idleSlotSeconds > 0 && f.idleSlotSeconds < 3600 {
		found.Warn("idle_replication_slot_timeout", "raise it to a day or more", "%d s: a longer downtime of outflow loses the slot", f.idleSlotSeconds)
	}
	if free := f.allowed - f.connections; free < spareConnections {
		found.Warn("connections", "raise max_connections, or connect other clients through a pooler", "%d of %d in use; outflow needs up to %d", f.connections, f.allowed, spareConnections)
	} else {
		found.Pass("connections", "%d of %d in use", f.connections, f.allowed)
	}
	InspectClock(f.clock, f.asked, f.answered, found)
}

// spareConnections are the connections of a process to the primary beside the walsender: notes, the watch, NOTIFY, the status API's orders, a
// question of a moment, look-ups, and two copies with the small copies beside them.
const spareConnections = 5 + LookupConnections + 2*4

// InspectClock compares a server's clock, read between asked and answered, with the clock of the machine.
func InspectClock(server, asked, answered time.Time, found *Findings) {
	here := asked.Add(answered.Sub(asked) / 2)
	if apart := server.Sub(here).Abs(); apart-answered.Sub(asked)/2 > clockPatience {
		found.Warn("clock", "synchronize both clocks with NTP", "%s apart from this machine's clock: lags in seconds will be misleading", apart.Round(time.Second))
	} else {
		found.Pass("clock", "within %s of this machine's clock", clockPatience)
	}
}

// usable reports whether more can be found out of the rule's table t than the table's faults.
func (r TableRule) usable(t *wal.Table) bool {
	if t == nil || len(t.Relation.Key) == 0 {
		return false
	}
	tenant := t.Relation.Column(r.Tenant)
	return tenant >= 0 && (t.Relation.Columns[tenant].Identity || r.InsertsOnly)
}

// InspectTable finds obstacles to reading a table. The returned table is nil where the table cannot be used.
func InspectTable(ctx context.Context, conn *pgx.Conn, rule TableRule) (*wal.Table, Findings) {
	var found Findings
	check := "table " + rule.Schema + "." + rule.Name
	tables, err := CheckTables(ctx, conn, []TableRule{rule})
	for _, one := range Flatten(err) {
		found.Fault(check, one)
	}
	if len(tables) == 0 || !rule.usable(tables[0]) {
		return nil, found
	}
	t := tables[0]
	if err == nil {
		identity := map[byte]string{'d': "the primary key", 'i': "a unique index", 'f': "FULL"}[t.Relation.Identity]
		found.Pass(check, "replica identity %s, tenant %q", identity, rule.Tenant)
	}
	if rule.InsertsOnly {
		return t, found // a table read from the slot only
	}
	var indexed bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a
			ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] WHERE i.indrelid = $1 AND a.attname = $2 AND i.indisvalid AND i.indpred IS NULL)`,
		t.Relation.OID, rule.Tenant).Scan(&indexed)
	if err != nil {
		found.Fault(check, fmt.Errorf("reading the catalog of %s: %w", t.Relation, err))
		return t, found
	}
	if !indexed {
		found.Warn(check, fmt.Sprintf("CREATE INDEX CONCURRENTLY ON %s (%s, <key>)", pgx.Identifier{rule.Schema, rule.Name}.Sanitize(), quoteIdentifier(rule.Tenant)),
			"no index begins with %q: each chunk of a copy reads the whole table", rule.Tenant)
	}
	return t, found
}
