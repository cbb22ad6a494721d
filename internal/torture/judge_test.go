package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The bounds of the time from the end of all faults and writers until both sides are equal: in all, and while an unequal external
// database does not move. The first is long for the sake of busy machines.
const (
	equalWithin = 5 * time.Minute
	movesWithin = time.Minute
)

// judge waits until every external database is equal to the primary, and checks the metadata and the slot then.
func (w *world) judge(ctx context.Context) {
	marks, err := w.mark(ctx)
	if err == nil {
		err = w.settleDefinition(ctx)
	}
	if err != nil {
		w.fail("the last transactions: %v", err)
		return
	}
	began := time.Now()
	for _, d := range w.destinations {
		if err := w.becomesEqual(ctx, d, marks[d.tenant], began.Add(equalWithin)); err != nil {
			w.fail("%s after the end of all faults %s differs: %v\n%s", time.Since(began).Round(time.Second), d, err, w.describe(ctx))
			return
		}
		w.say("%s is equal", d)
	}
	w.settled = time.Since(began)
	w.slotCaughtUp(ctx, marks)
	if out, err := w.fleet.outflow(ctx, "verify"); err != nil {
		w.fail("both sides are equal, and outflow verify says %v: %s", err, out)
	}
}

// settleDefinition counts an edit whose answer was lost and that the primary has.
func (w *world) settleDefinition(ctx context.Context) error {
	var edited bool
	err := w.onPrimaryRow(ctx, `SELECT coalesce(bool_or(definitions[1] = $text$`+ownDefinition(w.definition.Load()+1)+`$text$), false) FROM outflow.destination`, &edited)
	if edited {
		w.definition.Add(1)
	}
	return err
}

// becomesEqual waits until a destination is equal. The error names the difference.
func (w *world) becomesEqual(ctx context.Context, d *destination, m mark, deadline time.Time) error {
	previous, moved := "", time.Now()
	for {
		err := w.isEqual(ctx, d, m)
		if err == nil {
			return nil
		}
		if now := d.progress(ctx); now != previous {
			previous, moved = now, time.Now()
		}
		switch {
		case time.Now().After(deadline) || w.hasFailed():
			return err
		case time.Since(moved) > movesWithin:
			return fmt.Errorf("nothing has moved for %s: %w", movesWithin, err)
		}
		pause(ctx, 500*time.Millisecond)
	}
}

// progress is a text; new rows and copies of the destination change the text.
func (d *destination) progress(ctx context.Context) (text string) {
	_ = queryRow(ctx, d.direct(), `SELECT string_agg((m.epoch, m.backfill, m.last_synced_sequence_id)::text, ' ' ORDER BY m.mapping_name) FROM public._stack_sync_metadata m`, &text)
	return text
}

// mark is the last transaction of a tenant: the commit record lies between the two LSNs.
type mark struct{ after, before uint64 }

// mark commits a last transaction for each tenant.
func (w *world) mark(ctx context.Context) (map[string]mark, error) {
	conn, err := pgx.Connect(ctx, w.source())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	marks := map[string]mark{}
	for _, tenant := range tenants {
		m := mark{}
		for i, sql := range []string{`SELECT pg_current_wal_insert_lsn()::text`,
			fmt.Sprintf(`WITH l AS (INSERT INTO "Ledger" VALUES ('%[1]s', 0, 1)) INSERT INTO "Clock" VALUES ('%[1]s', 0, 1) RETURNING ''`, tenant),
			`SELECT pg_current_wal_insert_lsn()::text`} {
			var text string
			if err := conn.QueryRow(ctx, sql).Scan(&text); err != nil {
				return nil, err
			}
			switch i {
			case 0:
				m.after, err = parseLSN(text)
			case 2:
				m.before, err = parseLSN(text)
			}
			if err != nil {
				return nil, err
			}
		}
		marks[tenant] = m
	}
	return marks, nil
}

// isEqual returns nil for an equal destination, else the difference.
func (w *world) isEqual(ctx context.Context, d *destination, m mark) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if state := w.fleet.states(ctx)[d.database].State; state != "streaming" {
		return fmt.Errorf("it is %q", state)
	}
	conn, err := pgx.Connect(ctx, d.direct())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var copying bool
	var epoch, most, base int64
	if err := conn.QueryRow(ctx, `SELECT bool_or(backfill IS NOT NULL), min(epoch), max(last_synced_sequence_id)
		FROM public._stack_sync_metadata`).Scan(&copying, &epoch, &most); err != nil {
		return err
	}
	if err := w.onPrimaryRow(ctx, `SELECT sequence_base FROM outflow.source WHERE slot = '`+slot+`'`, &base); err != nil {
		return err
	}
	switch id := uint64(most - base); {
	case copying:
		return errors.New("a copy is in progress")
	case d.excuses.unnoticed(epoch) != "":
		return fmt.Errorf("outflow has not noticed that %s", d.excuses.unnoticed(epoch))
	case id < m.after:
		return fmt.Errorf("the metadata is at %X, and the last commit of the tenant lies between %X and %X", id, m.after, m.before)
	}
	for _, c := range w.comparisons(d) {
		if err := w.differs(ctx, conn, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

func (w *world) onPrimaryRow(ctx context.Context, sql string, into ...any) error {
	conn, err := pgx.Connect(ctx, w.source())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.QueryRow(ctx, sql).Scan(into...)
}

// comparison is a query on either side. Both must give the same rows.
type comparison struct{ name, source, target string }

// comparisons are the queries for a destination, which share nothing with outflow.
func (w *world) comparisons(d *destination) []comparison {
	all := []comparison{
		{"contact_channels", fmt.Sprintf(`SELECT id, "projectUserId", type::text, "isPrimary" IS NOT NULL, "isVerified", "usedForAuth" IS NOT NULL, value, "createdAt"::timestamp
			FROM "ContactChannel" WHERE "tenancyId" = '%s'`, d.tenant),
			`SELECT id, user_id, type, is_primary, is_verified, used_for_auth, value, created_at FROM contact_channels`},
		{"users", fmt.Sprintf(`SELECT "projectUserId", "displayName", "profileImageUrl", c.value, coalesce(c."isVerified", false), coalesce("signedUpAt", u."createdAt")::timestamp,
			coalesce("clientMetadata", '{}'), coalesce("clientReadOnlyMetadata", '{}'), coalesce("serverMetadata", '{}'), "isAnonymous"
			FROM "ProjectUser" u LEFT JOIN (SELECT * FROM "ContactChannel" WHERE "isPrimary" = 'TRUE') c USING ("tenancyId", "projectUserId")
			WHERE "tenancyId" = '%s'`, d.tenant),
			`SELECT id, display_name, profile_image_url, primary_email, primary_email_verified, signed_up_at, client_metadata, client_read_only_metadata, server_metadata,
			is_anonymous FROM users`},
		{"journal", fmt.Sprintf(`SELECT writer, number FROM "Ledger" WHERE tenant = '%s'`, d.tenant), `SELECT DISTINCT writer, number FROM journal`},
	}
	if d.hasOwn() {
		all = append(all, comparison{"own", fmt.Sprintf(`SELECT id, balance + %d FROM "Account" WHERE tenant = '%s'`, w.definition.Load(), d.tenant), `SELECT id, edited FROM own`})
	}
	for _, t := range tables {
		columns := strings.Join(names(t.columns()), ", ")
		source := columns
		if t.mapping == "items" && w.edition.Load() > 0 {
			source = strings.Replace(columns, "note", fmt.Sprintf("note || ' (edition %d)'", w.edition.Load()), 1)
		}
		all = append(all, comparison{t.target, fmt.Sprintf(`SELECT %s FROM %q WHERE tenant = '%s'`, source, t.source, d.tenant), fmt.Sprintf(`SELECT %s FROM %s`, columns, t.target)})
	}
	return all
}

// differs brings the rows of the primary into a temporary table of the external database and compares both ways.
func (w *world) differs(ctx context.Context, target *pgx.Conn, c comparison) error {
	source, err := pgx.Connect(ctx, w.source())
	if err != nil {
		return err
	}
	defer source.Close(context.WithoutCancel(ctx))
	var rows bytes.Buffer
	if _, err := source.PgConn().CopyTo(ctx, &rows, "COPY ("+c.source+") TO STDOUT"); err != nil {
		return err
	}
	if _, err := target.Exec(ctx, "CREATE TEMP TABLE IF NOT EXISTS expected_"+c.name+" AS "+c.target+" LIMIT 0; TRUNCATE expected_"+c.name, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	if _, err := target.PgConn().CopyFrom(ctx, &rows, "COPY expected_"+c.name+" FROM STDIN"); err != nil {
		return err
	}
	both := fmt.Sprintf(`(SELECT 'missing ' || e::text FROM (TABLE expected_%[1]s EXCEPT ALL (%[2]s)) e LIMIT 3)
		UNION ALL (SELECT 'too much ' || a::text FROM ((%[2]s) EXCEPT ALL TABLE expected_%[1]s) a LIMIT 3)`, c.name, c.target)
	found, _ := target.Query(ctx, both)
	diff, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err == nil && len(diff) > 0 {
		return fmt.Errorf("%.1500s", strings.Join(diff, "\n"))
	}
	return err
}

// slotCaughtUp waits until the slot has forgotten the last transaction of every tenant.
func (w *world) slotCaughtUp(ctx context.Context, marks map[string]mark) {
	last := uint64(0)
	for _, m := range marks {
		last = max(last, m.before)
	}
	var text string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); pause(ctx, 200*time.Millisecond) {
		err := w.onPrimaryRow(ctx, `SELECT coalesce(confirmed_flush_lsn::text, '0/0') FROM pg_replication_slots WHERE slot_name = '`+slot+`'`, &text)
		if lsn, wrong := parseLSN(text); err == nil && wrong == nil && lsn >= last {
			return
		}
	}
	w.fail("all are equal, and the slot stands at %s, before %X", text, last)
}

// describe is the state of each destination by outflow's own words, for a failure's message.
func (w *world) describe(ctx context.Context) string {
	var b strings.Builder
	for _, d := range w.destinations {
		s, known := w.fleet.states(ctx)[d.database]
		fmt.Fprintf(&b, "%s: %s", d, s.State)
		if s.Reason != nil {
			fmt.Fprintf(&b, ", %s", *s.Reason)
		}
		if s.Error != nil {
			fmt.Fprintf(&b, ", %s", s.Error.Message)
		}
		if !known {
			b.WriteString("nobody reads the slot")
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (w *world) hasFailed() bool {
	select {
	case <-w.failed:
		return true
	default:
		return false
	}
}

// sqlState is the SQLSTATE of an error, "" for none.
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}
