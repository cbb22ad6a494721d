package pipeline

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"outflow/replication/primary"
	"outflow/replication/wal"
)

// tenantColumn is the tenant column of a table.
type tenantColumn struct {
	table    string
	oid      uint32
	modifier int32
	plain    string // the type, without modifier and a domain as its base type
	name     string // the type with its modifier, "" is not known yet
}

// noteTenants notes the tables' tenant columns, each type once.
func (p *Plan) noteTenants(tables []*wal.Table, rules []primary.TableRule) {
	seen := map[[2]int64]bool{}
	for i, t := range tables {
		at := t.Relation.Column(rules[i].Tenant)
		if at < 0 {
			continue
		}
		c := t.Relation.Columns[at]
		if id := [2]int64{int64(c.TypeOID), int64(c.TypeMod)}; !seen[id] {
			seen[id] = true
			p.tenants = append(p.tenants, tenantColumn{table: t.Relation.String(), oid: c.TypeOID, modifier: c.TypeMod, plain: c.Type})
		}
	}
}

// tenantFault says that a text names no tenant.
type tenantFault struct {
	short string // for messages that name the tenant already
	err   error
}

func (f *tenantFault) Error() string { return f.err.Error() }

func (f *tenantFault) Unwrap() error { return f.err }

// CanonicalTenant is the tenant in the primary's own writing, by the output function of the tenant columns' type: a uuid in
// capitals would never match, nor a char(8) without its blanks. All tables must write the tenant alike.
func (p *Plan) CanonicalTenant(ctx context.Context, conn *pgx.Conn, tenant string) (string, error) {
	canonical := tenant
	for i := range p.tenants {
		c := &p.tenants[i]
		written, err := c.write(ctx, conn, tenant)
		if err != nil {
			return "", err
		}
		if i > 0 && written != canonical {
			text := fmt.Sprintf("%s writes it %q, and %s writes it %q: the tenant columns' types must agree", p.tenants[0].table, canonical, c.table, written)
			return "", &tenantFault{text, fmt.Errorf("%s", text)}
		}
		canonical = written
	}
	return canonical, nil
}

// write is the tenant in the writing of the column's type. A cast with a modifier may cut the text (varchar, bit) or round
// the text (numeric), and then the result would be the name of another tenant.
func (c *tenantColumn) write(ctx context.Context, conn *pgx.Conn, tenant string) (written string, err error) {
	// A varchar's length is in characters, of which a text never has more than bytes (src/backend/utils/adt/varchar.c).
	const header = 4 // VARHDRSZ, which the modifier counts
	fits := c.modifier == -1 || c.oid == pgtype.VarcharOID && len(tenant) <= int(c.modifier)-header
	if plain, ok := plainTenants[c.oid]; ok && fits && plain.MatchString(tenant) {
		return tenant, nil
	}
	if c.name == "" {
		if err := conn.QueryRow(ctx, `SELECT format_type($1, $2)`, c.oid, c.modifier).Scan(&c.name); err != nil {
			return "", err
		}
	}
	same := "true"
	if c.plain != "text" { // the form in which enums arrive
		same = fmt.Sprintf("$1::text::%s = $1::text::%s", c.name, c.plain)
	}
	var kept bool
	err = conn.QueryRow(ctx, fmt.Sprintf("SELECT format('%%s', $1::text::%s), %s", c.name, same), tenant).Scan(&written, &kept)
	if state := sqlstateOf(err); len(state) == 5 && slices.Contains([]string{"22", "23", "44", "54", "P0"}, state[:2]) { // a domain may have its own check
		return "", &tenantFault{fmt.Sprintf("no %s, as the tenant column is", c.name), err}
	}
	if err == nil && !kept {
		text := fmt.Sprintf("no %s, as the tenant column of %s is: it would be cut to %q", c.name, c.table, written)
		return "", &tenantFault{text, fmt.Errorf("%s", text)}
	}
	return written, err
}

// plainTenants are, by a type's OID, texts certain to equal the primary's writing, so that ten thousand need no query each.
var plainTenants = map[uint32]*regexp.Regexp{
	pgtype.UUIDOID:    regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`),
	pgtype.TextOID:    regexp.MustCompile(`^`),
	pgtype.VarcharOID: regexp.MustCompile(`^`),
	pgtype.Int4OID:    regexp.MustCompile(`^[1-9][0-9]{0,8}$`),
	pgtype.Int8OID:    regexp.MustCompile(`^[1-9][0-9]{0,17}$`),
}
