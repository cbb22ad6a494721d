package torture

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// The sizes of the tenants' data: small, because a run copies the data dozens of times.
const (
	accounts       = 12 // of each tenant
	openingBalance = 1000
	items          = 60 // keys of each writer in each tenant
	users          = 12 // likewise
)

// change is a kind of change in a transaction. The statements change rows of the writer's own keys, and accounts.
type change struct {
	name   string
	weight int
	sql    func(x *transaction) []string
}

var changes []change

func init() { // a variable's initializer would refer to itself by way of transaction.change
	changes = []change{
		{"transfer", 30, (*transaction).transfer},
		{"insert items", 20, (*transaction).insertItems},
		{"update notes", 15, (*transaction).updateNotes},
		{"update payloads", 8, (*transaction).updatePayloads},
		{"move keys of items", 10, (*transaction).moveItemKeys},
		{"move items to a tenant", 8, (*transaction).moveItemTenant},
		{"delete items", 8, (*transaction).deleteItems},
		{"exchange keys", 4, (*transaction).exchangeKeys},
		{"new user", 15, (*transaction).newUser},
		{"change channels", 20, (*transaction).changeChannels},
		{"move key of user", 6, (*transaction).moveUser},
		{"move user to a tenant", 4, (*transaction).moveUserTenant},
		{"delete user", 6, (*transaction).deleteUser},
		{"parts", 12, (*transaction).parts},
		{"wide", 12, (*transaction).wide},
		{"truncate items", 1, (*transaction).truncateItems},
		{"truncate users", 1, (*transaction).truncateUsers},
		{"large", 1, (*transaction).large},
		{"message", 3, (*transaction).message},
	}
}

func pickChange(r *rand.Rand) change {
	total := 0
	for _, c := range changes {
		total += c.weight
	}
	n := r.IntN(total)
	for _, c := range changes {
		if n -= c.weight; n < 0 {
			return c
		}
	}
	panic("unreachable: the weights add up to total")
}

// transfer moves money between two accounts of the tenant. Each account is locked in the order of ids.
func (x *transaction) transfer() []string {
	from, to := 1+x.r.IntN(accounts), 1+x.r.IntN(accounts)
	amount := 1 + x.r.IntN(100)
	if from > to {
		from, to, amount = to, from, -amount
	}
	move := func(id, by int) string {
		return fmt.Sprintf(`UPDATE "Account" SET balance = balance + %d, version = nextval('version') WHERE tenant = '%s' AND id = %d`, by, x.tenant, id)
	}
	return []string{move(from, -amount), move(to, amount)}
}

// item is the first of some neighbouring keys of items.
func (x *transaction) item() (from, to int) {
	from = x.id*100_000 + x.r.IntN(items)
	return from, from + x.r.IntN(8)
}

// payload is SQL of a text, mostly stored out of line.
func (x *transaction) payload(of string) string {
	return fmt.Sprintf(`repeat(md5(%s::text || '%d'), %d)`, of, x.r.Uint32(), pick(x.r, []int{1, 80, 120, 400}))
}

func (x *transaction) insertItems() []string {
	from, to := x.item()
	return []string{fmt.Sprintf(`INSERT INTO "Item" SELECT '%s', x, 'note ' || x, %s, nextval('version') FROM generate_series(%d, %d) x
		ON CONFLICT (tenant, id) DO UPDATE SET note = excluded.note, payload = excluded.payload, version = excluded.version`, x.tenant, x.payload("x"), from, to)}
}

// update is an UPDATE of some items. Each gets a new version.
func (x *transaction) update(set string) string {
	from, to := x.item()
	return fmt.Sprintf(`UPDATE "Item" SET %s, version = nextval('version') WHERE tenant = '%s' AND id BETWEEN %d AND %d`, set, x.tenant, from, to)
}

func (x *transaction) updateNotes() []string {
	return []string{x.update(fmt.Sprintf(`note = 'note %d'`, x.r.Uint32()))}
}

func (x *transaction) updatePayloads() []string {
	return []string{x.update("payload = " + x.payload("id"))}
}

func (x *transaction) deleteItems() []string {
	from, to := x.item()
	return []string{fmt.Sprintf(`DELETE FROM "Item" WHERE tenant = '%s' AND id BETWEEN %d AND %d`, x.tenant, from, to)}
}

// moveItemKeys gives some items free keys.
func (x *transaction) moveItemKeys() []string {
	from, to := x.item()
	by := items + x.r.IntN(items)
	if x.r.IntN(2) == 0 { // back
		from, to, by = from+items, to+2*items, -items
	}
	return []string{fmt.Sprintf(`UPDATE "Item" i SET id = id + %[1]d, version = nextval('version') WHERE tenant = '%[2]s' AND id BETWEEN %[3]d AND %[4]d
		AND id + %[1]d BETWEEN %[5]d AND %[5]d + 99999 AND NOT EXISTS (SELECT FROM "Item" o WHERE o.tenant = '%[2]s' AND o.id = i.id + %[1]d)`, by, x.tenant, from, to, x.id*100_000)}
}

// exchangeKeys has two items exchange their keys, by way of a third key.
func (x *transaction) exchangeKeys() []string {
	a, b := x.item()
	spare := x.id*100_000 + 99_999
	move := func(from, to int) string {
		return fmt.Sprintf(`UPDATE "Item" SET id = %d, version = nextval('version') WHERE tenant = '%s' AND id = %d`, to, x.tenant, from)
	}
	if a == b {
		return []string{move(a, a)}
	}
	return []string{move(a, spare), move(b, a), move(spare, b)}
}

func (x *transaction) moveItemTenant() []string {
	from, to := x.item()
	return []string{fmt.Sprintf(`UPDATE "Item" i SET tenant = '%[1]s', version = nextval('version') WHERE tenant = '%[2]s' AND id BETWEEN %[3]d AND %[4]d
		AND NOT EXISTS (SELECT FROM "Item" o WHERE o.tenant = '%[1]s' AND o.id = i.id)`, x.other, x.tenant, from, to)}
}

func (x *transaction) truncateItems() []string {
	return append([]string{`TRUNCATE "Item"`}, x.insertItems()...)
}

// large changes more rows than a batch has, and gives most of them up again.
func (x *transaction) large() []string {
	from := x.id*100_000 + 1000
	return []string{
		fmt.Sprintf(`INSERT INTO "Item" SELECT '%s', x, 'large', md5(x::text), nextval('version') FROM generate_series(%d, %d) x
			ON CONFLICT (tenant, id) DO UPDATE SET version = excluded.version`, x.tenant, from, from+1000+x.r.IntN(2000)),
		fmt.Sprintf(`DELETE FROM "Item" WHERE tenant = '%s' AND id >= %d AND id < %d`, x.tenant, from+x.r.IntN(200), from+10_000),
	}
}

// message is a logical message of another program.
func (x *transaction) message() []string {
	return []string{fmt.Sprintf(`SELECT pg_logical_emit_message(%t, 'somebody', repeat('x', %d))`, x.r.IntN(2) == 0, x.r.IntN(2000))}
}

// user is the id of a user of the writer.
func (x *transaction) user() string {
	return fmt.Sprintf("%08x-0000-4000-8000-%012d", x.id, x.r.IntN(users))
}

const theUser = `"tenancyId" = '%[1]s' AND "projectUserId" = '%[2]s'`

// counted notes in the user's own row how many channels there are and which is primary: a reader finds both in agreement.
func counted(tenant, user string) string {
	of := fmt.Sprintf(theUser, tenant, user)
	return fmt.Sprintf(`UPDATE "ProjectUser" SET "serverMetadata" = jsonb_build_object('channels', (SELECT count(*) FROM "ContactChannel" WHERE %[1]s),
		'email', (SELECT value FROM "ContactChannel" WHERE %[1]s AND "isPrimary" = 'TRUE')), "displayName" = 'v' || nextval('version') WHERE %[1]s`, of)
}

func (x *transaction) channel(user string, primary bool) string {
	kind := "NULL"
	if primary {
		kind = "'TRUE'"
	}
	return fmt.Sprintf(`INSERT INTO "ContactChannel" ("tenancyId", "projectUserId", id, type, "isPrimary", "isVerified", value)
		SELECT "tenancyId", "projectUserId", gen_random_uuid(), 'EMAIL', %s, true, 'v' || nextval('version') || '@example.com' FROM "ProjectUser" WHERE %s
		ON CONFLICT ("tenancyId", "projectUserId", type, "isPrimary") DO UPDATE SET value = excluded.value`, kind, fmt.Sprintf(theUser, x.tenant, user))
}

func (x *transaction) newUser() []string { return x.newUserAs(x.user()) }

func (x *transaction) newUserAs(user string) []string {
	return []string{
		fmt.Sprintf(`INSERT INTO "ProjectUser" ("tenancyId", "projectUserId", "clientMetadata") VALUES ('%s', '%s', jsonb_build_object('large', %s))
			ON CONFLICT ("tenancyId", "projectUserId") DO UPDATE SET "clientMetadata" = excluded."clientMetadata"`, x.tenant, user, x.payload("1")),
		x.channel(user, true), x.channel(user, false), counted(x.tenant, user),
	}
}

func (x *transaction) changeChannels() []string {
	user := x.user()
	change := x.channel(user, x.r.IntN(2) == 0)
	if x.r.IntN(3) == 0 {
		change = fmt.Sprintf(`DELETE FROM "ContactChannel" WHERE id = (SELECT id FROM "ContactChannel" WHERE %s ORDER BY id LIMIT 1)`, fmt.Sprintf(theUser, x.tenant, user))
	}
	return []string{change, counted(x.tenant, user)}
}

// moveUser gives a user a free key; the channels follow by ON UPDATE CASCADE.
func (x *transaction) moveUser() []string {
	from, to := x.user(), x.user()
	return []string{fmt.Sprintf(`UPDATE "ProjectUser" SET "projectUserId" = '%[3]s' WHERE `+theUser+`
		AND NOT EXISTS (SELECT FROM "ProjectUser" WHERE "tenancyId" = '%[1]s' AND "projectUserId" = '%[3]s')`, x.tenant, from, to)}
}

func (x *transaction) moveUserTenant() []string {
	return []string{fmt.Sprintf(`UPDATE "ProjectUser" SET "tenancyId" = '%[3]s' WHERE `+theUser+`
		AND NOT EXISTS (SELECT FROM "ProjectUser" WHERE "tenancyId" = '%[3]s' AND "projectUserId" = '%[2]s')`, x.tenant, x.user(), x.other)}
}

// deleteUser deletes a user, half of the time with a tombstone, and sometimes makes the user again.
func (x *transaction) deleteUser() (sql []string) {
	user := x.user()
	if x.r.IntN(2) == 0 {
		sql = append(sql, fmt.Sprintf(`INSERT INTO "DeletedRow" ("tenancyId", "tableName", "primaryKey", data)
			SELECT "tenancyId", 'ProjectUser', jsonb_build_object('tenancyId', "tenancyId", 'projectUserId', "projectUserId"), to_jsonb(u) FROM "ProjectUser" u WHERE %s`,
			fmt.Sprintf(theUser, x.tenant, user)))
	}
	sql = append(sql, fmt.Sprintf(`DELETE FROM "ProjectUser" WHERE `+theUser, x.tenant, user))
	if x.r.IntN(4) == 0 {
		sql = append(sql, x.newUserAs(user)...)
	}
	return sql
}

func (x *transaction) truncateUsers() []string {
	return append([]string{`TRUNCATE "ProjectUser" CASCADE`}, x.newUser()...)
}

// parts changes rows of the partitioned table, and moves rows between partitions.
func (x *transaction) parts() []string {
	id := x.id*100_000 + x.r.IntN(items)
	where := fmt.Sprintf(`tenant = '%s' AND id = %d`, x.tenant, id)
	insert := fmt.Sprintf(`INSERT INTO "Part" VALUES ('%s', %d, %d, nextval('version')) ON CONFLICT (tenant, id, kind) DO UPDATE SET version = excluded.version`,
		x.tenant, id, x.r.IntN(5))
	switch x.r.IntN(4) {
	case 0:
		return []string{`DELETE FROM "Part" WHERE ` + where}
	case 1: // a single row with the id, in another partition
		return []string{insert, fmt.Sprintf(`DELETE FROM "Part" WHERE %s AND kind <> (SELECT min(kind) FROM "Part" WHERE %s)`, where, where),
			fmt.Sprintf(`UPDATE "Part" SET kind = (kind + 1) %% 5, version = nextval('version') WHERE %s`, where)}
	}
	return []string{insert}
}

// wide changes rows of the table with many types. The values are extremes of their types, or any.
func (x *transaction) wide() []string {
	id := x.id*100_000 + x.r.IntN(items)
	switch x.r.IntN(5) {
	case 0:
		return []string{fmt.Sprintf(`DELETE FROM "Wide" WHERE tenant = '%s' AND id = %d`, x.tenant, id)}
	case 1:
		return []string{x.copyWide()}
	}
	return []string{fmt.Sprintf(`INSERT INTO "Wide" (tenant, id, amount, ratio, moment, period, raw, tags, version)
		VALUES ('%s', %d, %d, %s, %s, %s, sha256('%d'), %s, nextval('version'))
		ON CONFLICT (tenant, id) DO UPDATE SET amount = excluded.amount, ratio = excluded.ratio, moment = excluded.moment, version = excluded.version`,
		x.tenant, id, x.r.IntN(1_000_000),
		pick(x.r, []string{"random()", "'NaN'", "'-Infinity'", "1e-307", "0.1::float8 + 0.2", "NULL"}),
		pick(x.r, []string{"clock_timestamp()", "'infinity'", "'0044-03-15 12:00 BC'", "'2026-02-03 04:05:06.789+05:30'", "NULL"}),
		pick(x.r, []string{"'1 year -2 mons 3 days -04:05:06.7'", "'0'", "NULL"}), x.r.Uint32(),
		pick(x.r, []string{"ARRAY['a', NULL, '', 'NULL', '\"', '{}']", "'{}'", "NULL"}))}
}

// copyWide is a COPY of some rows with fresh keys.
func (x *transaction) copyWide() string {
	var b strings.Builder
	b.WriteString("COPY \"Wide\" (tenant, id, amount, tags, version) FROM STDIN\n")
	for range 1 + x.r.IntN(20) {
		fmt.Fprintf(&b, "%s\t%d\t%d\t{copied}\t0\n", x.tenant, x.id*100_000_000+x.r.IntN(100_000_000), x.r.IntN(1000))
	}
	return b.String()
}
