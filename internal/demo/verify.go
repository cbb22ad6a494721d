package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// projections say what an external database must hold, as SQL that shares nothing with Outflow: no mapping, no decoder. Each
// query gives one JSON text a row; on the primary, $1 is the tenant. The external side takes whole rows, so that a column
// too many is a difference.
var projections = []struct{ table, primary, external string }{
	{"contact_channels", `
		SELECT jsonb_build_object('id', c."id", 'user_id', c."projectUserId", 'type', c."type"::text, 'value', c."value",
			'is_primary', c."isPrimary" IS NOT NULL, 'is_verified', c."isVerified",
			'used_for_auth', c."usedForAuth" IS NOT NULL, 'created_at', c."createdAt")::text
		FROM "ContactChannel" c WHERE c."tenancyId" = $1`,
		`SELECT to_jsonb(t)::text FROM "contact_channels" t`},
	{"users", `
		SELECT jsonb_build_object('id', u."projectUserId", 'display_name', u."displayName",
			'profile_image_url', u."profileImageUrl",
			'primary_email', e.address, 'primary_email_verified', coalesce(e.verified, false),
			'signed_up_at', CASE WHEN u."signedUpAt" IS NULL THEN u."createdAt" ELSE u."signedUpAt" END,
			'client_metadata', coalesce(u."clientMetadata", '{}'),
			'client_read_only_metadata', coalesce(u."clientReadOnlyMetadata", '{}'),
			'server_metadata', coalesce(u."serverMetadata", '{}'), 'is_anonymous', u."isAnonymous")::text
		FROM "ProjectUser" u
		LEFT JOIN (SELECT "tenancyId" tenant, "projectUserId" id, "value" address, "isVerified" verified
			FROM "ContactChannel" WHERE "type" = 'EMAIL' AND "isPrimary" = 'TRUE') e
			ON e.tenant = u."tenancyId" AND e.id = u."projectUserId"
		WHERE u."tenancyId" = $1`,
		`SELECT to_jsonb(t)::text FROM "users" t`},
}

// verify compares every external database with the primary, and prints the comparison.
func (d *demonstration) verify(ctx context.Context) error {
	fmt.Fprintf(d.out, "\nComparing with the primary in both directions, with SQL that is independent of Outflow:\n")
	primary, err := pgx.Connect(ctx, d.servers.source)
	if err != nil {
		return err
	}
	defer primary.Close(ctx)
	different := 0
	for _, t := range d.servers.tenants {
		n, err := d.verifyTenant(ctx, primary, t)
		if err != nil {
			return fmt.Errorf("comparing %s: %w", t.name, err)
		}
		different += n
	}
	if different > 0 {
		return fmt.Errorf("%d rows differ between the primary and the external databases", different)
	}
	return nil
}

// verifyTenant returns the number of rows present on a single side.
func (d *demonstration) verifyTenant(ctx context.Context, primary *pgx.Conn, t tenant) (different int, err error) {
	external, err := pgx.Connect(ctx, t.dsn)
	if err != nil {
		return 0, err
	}
	defer external.Close(ctx)
	for _, p := range projections {
		want, err := projectedRows(ctx, primary, p.primary, t.id)
		if err != nil {
			return 0, fmt.Errorf("%s on the primary: %w", p.table, err)
		}
		have, err := projectedRows(ctx, external, p.external)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.table, err)
		}
		missing, extra := onlyIn(want, have), onlyIn(have, want)
		result := "equal"
		if n := len(missing) + len(extra); n > 0 {
			result = fmt.Sprintf("DIFFERENT: %d rows only on the primary, %d only in the external database", len(missing), len(extra))
			different += n
		}
		fmt.Fprintf(d.out, "  %-10s  %-16s  %7d rows on the primary, %7d here: %s\n", t.name, p.table, len(want), len(have), result)
		d.printRows("only on the primary", missing)
		d.printRows("only in the external database", extra)
	}
	return different, nil
}

func (d *demonstration) printRows(where string, rows []string) {
	for _, row := range rows[:min(len(rows), 5)] {
		fmt.Fprintf(d.out, "    %s: %.300s\n", where, row)
	}
}

// projectedRows are a query's rows. Both tables have a primary key, so two equal rows are a fault of the query.
func projectedRows(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (map[string]bool, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	set := map[string]bool{}
	var row string
	_, err = pgx.ForEachRow(rows, []any{&row}, func() error {
		if set[row] {
			return errors.New("the same row twice: " + row)
		}
		set[row] = true
		return nil
	})
	return set, err
}

func onlyIn(a, b map[string]bool) []string {
	only := maps.Clone(a)
	maps.DeleteFunc(only, func(row string, _ bool) bool { return b[row] })
	return slices.Sorted(maps.Keys(only))
}
