package e2e

import (
	"fmt"
	"testing"
	"time"

	"outflow/internal/config"
	"outflow/internal/failpoint"
	"outflow/internal/faultproxy"
	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// oncePerProcess are points reached a single time by a process, or seldom.
var oncePerProcess = []failpoint.Point{failpoint.ReliedNoted, failpoint.SlotTaken, failpoint.ReadingBegun, failpoint.BeforeConnect, failpoint.Connected,
	failpoint.BeforeInstall, failpoint.Installed, failpoint.PutOff, failpoint.NextPass, failpoint.SweepRemoved, failpoint.BackfillFinished, failpoint.BackfillBegun,
	failpoint.RequestTaken, failpoint.BeforeRaise, failpoint.Raised, failpoint.ParkNoted}

var ordeals = []ordeal{
	{name: "fresh", begin: (*failing).freshly, anew: (*failing).undone, settled: (*failing).allEqual,
		points: []failpoint.Point{failpoint.SchemaCreated, failpoint.SchemaMigrated, failpoint.SlotCreated, failpoint.BeforeInstall, failpoint.Installed}},
	{name: "stream", begin: (*failing).streams, stir: (*failing).changes, settled: (*failing).allOnce,
		points: []failpoint.Point{failpoint.ReliedNoted, failpoint.SlotTaken, failpoint.ReadingBegun, failpoint.Received, failpoint.Registered,
			failpoint.HandedOver, failpoint.BeforeReport, failpoint.Reported, failpoint.LookedUp, failpoint.BeforeConnect, failpoint.Connected,
			failpoint.BeforeBegin, failpoint.StepQueued, failpoint.BeforeAdvance, failpoint.BeforeCommit, failpoint.CommitSent, failpoint.Committed,
			failpoint.RoundApplied, failpoint.Flushed, failpoint.BeforeCheckpoint, failpoint.Checkpointed}},
	{name: "copy", begin: (*failing).copies, stir: (*failing).resyncs, settled: (*failing).copied,
		points: []failpoint.Point{failpoint.RequestTaken, failpoint.BackfillBegun, failpoint.ChunkRead, failpoint.BeforeMerge, failpoint.ChunkMerged,
			failpoint.PutOff, failpoint.NextPass, failpoint.SweepPageRead, failpoint.SweepMissingFound, failpoint.SweepRemoved, failpoint.BackfillFinished}},
	{name: "park", args: []string{"--set", "sink.park_after=300ms", "--set", "sink.retry_max=300ms"}, begin: (*failing).parks, stir: (*failing).comesAndGoes,
		heal: (*failing).comesBack, settled: (*failing).allEqual,
		points: []failpoint.Point{failpoint.BeforeRaise, failpoint.Raised, failpoint.ParkNoted}},
	{name: "quarantine", args: []string{"--set", "sink.on_error=quarantine"}, begin: (*failing).refuses, stir: (*failing).poisons, settled: (*failing).setAside,
		points: []failpoint.Point{failpoint.BeforeQuarantine, failpoint.Quarantined}},
	{name: "reset", args: []string{"--slot-reset", "--yes"}, begin: (*failing).streams, settled: (*failing).allEqual,
		points: []failpoint.Point{failpoint.ResetBegun, failpoint.ResetSlotDropped, failpoint.ResetSlotCreated, failpoint.ResetEnded}},
}

// newFailingWorld is a world with counters, their journal, and some rows.
func newFailingWorld(t *testing.T) *world {
	w := newWorld(t, pgtest.Shared(t))
	w.withLedger()
	w.cfg.Sink.BatchRows = 200
	w.existing(50, tenant1, tenant2)
	w.exec(`INSERT INTO "Counter" SELECT t::uuid, n, 0 FROM generate_series(1, 50) n, unnest(ARRAY[$1, $2]) t`, tenant1, tenant2)
	return w
}

// freshly adds a destination of each tenant.
func (f *failing) freshly() {
	for _, tenant := range []string{tenant1, tenant2} {
		f.dsns = append(f.dsns, f.destination(tenant, "main", allMappings...))
	}
}

// undone takes away everything made by Outflow.
func (f *failing) undone() {
	f.dropSlot()
	f.exec(`DROP SCHEMA IF EXISTS outflow CASCADE; DROP PUBLICATION IF EXISTS outflow`)
	for _, dsn := range f.dsns {
		exec(f.t, connect(f.t, dsn), `DROP TABLE IF EXISTS _stack_sync_metadata, contact_channels, users, ledger, counter`)
	}
}

// streams lets a first process copy the rows, so that the journals begin.
func (f *failing) streams() {
	if len(f.dsns) == 0 {
		f.freshly()
	}
	f.exec(`ALTER TABLE "ProjectUser" ALTER "clientMetadata" SET STORAGE EXTERNAL`)
	f.exec(`UPDATE "ProjectUser" SET "clientMetadata" = jsonb_build_object('long', repeat('x', 5000)) WHERE "projectUserId" IN
		(SELECT min("projectUserId"::text)::uuid FROM "ProjectUser" GROUP BY "tenancyId")`)
	p := launch(f.t, append([]string{"run", "--config", f.configFile()}, f.plainArgs()...)...)
	f.journalFromHere()
	f.synced()
	if code := p.terminate(); code != 0 {
		f.t.Fatalf("the first process has ended with %d:\n%.4000s", code, p.out)
	}
}

// plainArgs are the ordeal's arguments, less those of a reset.
func (f *failing) plainArgs() []string {
	if f.s.name == "reset" {
		return nil
	}
	return f.s.args
}

// changes writes a few small transactions, and sometimes a large one. The versions of counters grow.
func (f *failing) changes(n int) {
	f.t.Helper()
	for range 3 {
		f.version++
		f.exec(`INSERT INTO "Counter" SELECT t::uuid, $3::int % 50 + 1, $3 FROM unnest(ARRAY[$1, $2]) t
			ON CONFLICT ("tenancyId", id) DO UPDATE SET version = excluded.version`, tenant1, tenant2, f.version)
	}
	f.exec(`UPDATE "ProjectUser" SET "displayName" = $1 WHERE "clientMetadata" ? 'long'`, fmt.Sprint("version ", f.version))
	if n%5 == 0 {
		f.version++
		f.exec(`INSERT INTO "Counter" SELECT $1, n, $2 FROM generate_series(1001, 1500) n ON CONFLICT ("tenancyId", id) DO UPDATE SET version = excluded.version`,
			[]string{tenant1, tenant2}[n/5%2], f.version)
	}
}

// allEqual compares all destinations with the primary.
func (f *failing) allEqual() {
	f.t.Helper()
	for i, d := range f.cfg.Destinations.Static {
		f.equal(d.Tenant, f.dsns[i])
		f.counters(d.Tenant, f.dsns[i], "")
	}
}

// counters compares the counters of a tenant, less some.
func (f *failing) counters(tenant, dsn, less string) {
	f.t.Helper()
	same(f.t, dsn, `SELECT id, version FROM counter ORDER BY id`,
		query(f.t, f.source, `SELECT id, version FROM "Counter" WHERE "tenancyId" = $1 `+less+` ORDER BY id`, tenant)...)
}

// allOnce is allEqual, and each change is in the journal once.
func (f *failing) allOnce() {
	f.t.Helper()
	f.allEqual()
	for i, d := range f.cfg.Destinations.Static {
		f.exactlyOnce(d.Tenant, f.dsns[i])
	}
}

// copies adds a table whose copy has unique values, so that an outdated external database refuses rows of a copy.
func (f *failing) copies() {
	f.exec(`CREATE TABLE coded ("tenancyId" uuid, id int, code text NOT NULL, PRIMARY KEY ("tenancyId", id))`)
	f.exec(`INSERT INTO coded SELECT t::uuid, n, 'code ' || n FROM generate_series(1, 4) n, unnest(ARRAY[$1, $2]) t`, tenant1, tenant2)
	f.cfg.Source.Tables = append(f.cfg.Source.Tables, config.Table{Name: "coded", Tenant: "tenancyId"})
	f.addMapping("coded", mirror("coded", 1, "id int", "code text UNIQUE"))
	for _, tenant := range []string{tenant1, tenant2} {
		f.dsns = append(f.dsns, f.destination(tenant, "main", append([]string{"coded"}, allMappings...)...))
	}
	f.streams()
}

// resyncs has a destination copied again now and then: with a row too many, and with the unique values of two rows exchanged.
func (f *failing) resyncs(n int) {
	f.t.Helper()
	f.changes(n)
	if n%20 != 3 || f.state(tenant1, "main") == "backfilling" { // a copy must come to its end now and then
		return
	}
	db := connect(f.t, f.dsns[0])
	defer db.Close(f.t.Context())
	for _, sql := range []string{`INSERT INTO counter VALUES (-1, 1) ON CONFLICT DO NOTHING`, `UPDATE coded_copy SET code = 'away' WHERE id = 1`,
		`UPDATE coded_copy SET code = 'code 1' WHERE id = 2`, `UPDATE coded_copy SET code = 'code 2' WHERE id = 1`} {
		if _, err := db.Exec(f.t.Context(), sql); err != nil {
			f.t.Logf("%s: %v", sql, err) // a process works beside
		}
	}
	state := &ledger.Store{Slot: f.cfg.Source.Slot, Connect: f.primary().Connect}
	defer state.Close()
	if _, err := state.RequestResync(f.t.Context(), tenant1, "main", "test", "ordeal"); err != nil {
		f.t.Fatal(err)
	}
}

// copied is allEqual with the table of copies.
func (f *failing) copied() {
	f.t.Helper()
	f.allEqual()
	for i, d := range f.cfg.Destinations.Static {
		same(f.t, f.dsns[i], `SELECT id, code FROM coded_copy ORDER BY id`,
			query(f.t, f.source, `SELECT id, code FROM coded WHERE "tenancyId" = $1 ORDER BY id`, d.Tenant)...)
	}
}

// parks puts a proxy before each external database.
func (f *failing) parks() {
	f.freshly()
	f.streams()
	var proxies []*faultproxy.Proxy
	for i := range f.cfg.Destinations.Static {
		proxies = append(proxies, f.proxied(i))
	}
	f.extra = proxies
}

// comesAndGoes takes the first external database away for a second, and gives it back for a second.
func (f *failing) comesAndGoes(n int) {
	f.t.Helper()
	f.changes(n)
	away, proxy := time.Now().Second()%2 == 0, f.extra.([]*faultproxy.Proxy)[0]
	proxy.Refuse(away)
	if away {
		proxy.Cut()
	}
}

// comesBack gives the first external database back.
func (f *failing) comesBack() { f.extra.([]*faultproxy.Proxy)[0].Refuse(false) }

// refuses has the external databases refuse one counter.
func (f *failing) refuses() {
	f.freshly()
	f.streams()
	for _, dsn := range f.dsns {
		exec(f.t, connect(f.t, dsn), `DELETE FROM counter WHERE id = 13; ALTER TABLE counter ADD CHECK (id <> 13)`)
	}
}

// poisons writes the refused counter among others.
func (f *failing) poisons(n int) {
	f.t.Helper()
	f.changes(n)
	f.version++
	f.exec(`UPDATE "Counter" SET version = $1 WHERE id IN (12, 13, 14)`, f.version)
}

// setAside is allOnce, less the refused counter, whose versions are in the quarantine once each.
func (f *failing) setAside() {
	f.t.Helper()
	for i, d := range f.cfg.Destinations.Static {
		f.equal(d.Tenant, f.dsns[i])
		f.counters(d.Tenant, f.dsns[i], "AND id <> 13")
		same(f.t, f.dsns[i], `SELECT row ->> 'version', count(*) FROM _stack_sync_quarantine GROUP BY 1 HAVING count(*) > 1`)
		same(f.t, f.dsns[i], `SELECT max((row ->> 'version')::int) FROM _stack_sync_quarantine WHERE row ->> 'id' = '13'`,
			query(f.t, f.source, `SELECT version FROM "Counter" WHERE "tenancyId" = $1 AND id = 13`, d.Tenant)...)
	}
}
