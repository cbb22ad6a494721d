package primary

import (
	"slices"
	"strings"
	"testing"

	"outflow/replication/wal"
)

// plainFacts are of a table items with the key (tenant, id) that a publication publishes.
func plainFacts() (facts, []PublishedTable) {
	rule := TableRule{Schema: "public", Name: "items", Tenant: "tenant"}
	rel := &wal.Relation{OID: 7, Schema: "public", Name: "items", Table: "items", Identity: 'd', Key: []int{0, 1},
		Columns: []wal.Column{{Name: "tenant", Identity: true}, {Name: "id", Identity: true}, {Name: "v"}}}
	f := facts{
		Publication: &publicationFacts{rowVersion: rowVersion{1, "10"}, Kinds: true, ViaRoot: true, Owner: "postgres",
			Members: []membershipFacts{{rowVersion: rowVersion{2, "10"}, Table: 7, Name: "public.items", Columns: []string{"tenant", "id", "v"}}}},
		Tables: []tableFacts{{OID: 7, Schema: "public", Name: "items", Kind: "r",
			Storage: []storageFacts{{OID: 7, Name: "public.items", Kind: "r", Persist: "p", File: 70, Toast: 71, Identity: "d", Key: []string{"tenant", "id"}}},
			Columns: []columnFacts{{Number: 1, Name: "tenant", Type: 25, NotNull: true, Readable: true}, {Number: 2, Name: "id", Type: 23, NotNull: true, Readable: true},
				{Number: 3, Name: "v", Type: 25, Readable: true}}}},
	}
	table := rule.Publish(&wal.Table{Relation: rel}, []string{"tenant", "v"})
	return f, []PublishedTable{table}
}

// partition makes the table partitioned, with one leaf.
func partition(f *facts) {
	t := &f.Tables[0]
	t.Kind, t.Storage[0].Kind, t.Storage[0].File, t.Storage[0].Toast = "p", "p", 0, 0
	t.Storage = append(t.Storage, storageFacts{OID: 8, Name: "public.leaf", Kind: "r", Persist: "p", File: 80, Toast: 81, Identity: "d", Key: []string{"tenant", "id"}})
}

func TestJudgement(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *tableFacts, p *publicationFacts)
		says   string // "": nothing is wrong
		heals  bool
	}{
		"in order":                 {func(*tableFacts, *publicationFacts) {}, "", false},
		"gone":                     {func(t *tableFacts, _ *publicationFacts) { *t = tableFacts{} }, "gone from the primary", false},
		"renamed":                  {func(t *tableFacts, _ *publicationFacts) { t.Name = "things" }, "was renamed to public.things", false},
		"a view":                   {func(t *tableFacts, _ *publicationFacts) { t.Kind = "v" }, "a view", false},
		"row security":             {func(t *tableFacts, _ *publicationFacts) { t.Secured = true }, "row security", false},
		"unreadable column":        {func(t *tableFacts, _ *publicationFacts) { t.Columns[2].Readable = false }, `may not read "v"`, false},
		"children":                 {func(t *tableFacts, _ *publicationFacts) { t.Children = []string{"public.kid"} }, "public.kid", false},
		"not logged":               {func(t *tableFacts, _ *publicationFacts) { t.Storage[0].Persist = "u" }, "not logged", false},
		"no identity":              {func(t *tableFacts, _ *publicationFacts) { t.Storage[0].Key = nil }, "no replica identity", false},
		"deferrable":               {func(t *tableFacts, _ *publicationFacts) { t.Storage[0].Key, t.Storage[0].Deferred = nil, true }, "DEFERRABLE", false},
		"FULL without a key":       {func(t *tableFacts, _ *publicationFacts) { t.Storage[0].Key, t.Storage[0].Identity = nil, "f" }, "no key", false},
		"generated key":            {func(t *tableFacts, _ *publicationFacts) { t.Storage[0].Generated = []string{"id"} }, "generated column id", false},
		"identity without tenant":  {func(t *tableFacts, _ *publicationFacts) { t.Storage[0].Key = []string{"id"} }, "not in the replica identity", false},
		"tenant renamed":           {func(t *tableFacts, _ *publicationFacts) { t.Columns[0].Name = "owner" }, `no column "tenant"`, false},
		"leaf with another key":    {func(t *tableFacts, _ *publicationFacts) { t.Storage[1].Key = []string{"id"} }, "partition public.leaf", false},
		"leaf with FULL":           {func(t *tableFacts, _ *publicationFacts) { t.Storage[1].Identity = "f" }, "partition public.leaf", false},
		"leaf is foreign":          {func(t *tableFacts, _ *publicationFacts) { t.Storage[1].Kind = "f" }, "foreign table", false},
		"kinds":                    {func(_ *tableFacts, p *publicationFacts) { p.Kinds = false }, "all kinds", true},
		"not via root":             {func(_ *tableFacts, p *publicationFacts) { p.ViaRoot = false }, "partitions", true},
		"filter":                   {func(_ *tableFacts, p *publicationFacts) { p.Members[0].Filtered = true }, "filters rows", true},
		"not published":            {func(_ *tableFacts, p *publicationFacts) { p.Members = nil }, "does not publish public.items", true},
		"column not published":     {func(_ *tableFacts, p *publicationFacts) { p.Members[0].Columns = []string{"tenant", "id"} }, "does not publish v", true},
		"all tables":               {func(_ *tableFacts, p *publicationFacts) { p.AllTables = true }, "FOR ALL TABLES", false},
		"more tables, more fields": {func(_ *tableFacts, p *publicationFacts) { p.Members = append(p.Members, membershipFacts{Table: 9}) }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, tables := plainFacts()
			if strings.HasPrefix(name, "leaf") || name == "not via root" {
				partition(&f)
				tables[0].Partition = true
			}
			c.damage(&f.Tables[0], f.Publication)
			found, excess := Publication{"outflow", tables}.judge(f, "role", 15)
			if c.says == "" {
				if len(found) > 0 || (len(excess) > 0) != (name != "in order") {
					t.Errorf("found %v, excess %v", found.errors(), excess)
				}
				return
			}
			if len(found) != 1 || !strings.Contains(found[0].What, c.says) || found[0].heals != c.heals || !found[0].Relied {
				t.Errorf("found %+v; expected one violation that says %q, heals %v", found, c.says, c.heals)
			}
			if !c.heals && found[0].Remedy == "" {
				t.Errorf("%s has no remedy", found[0].What)
			}
		})
	}
}

func TestExcess(t *testing.T) {
	t.Parallel()
	for want, widen := range map[string]func(p *publicationFacts){
		"":                               func(*publicationFacts) {},
		"column w, x of public.items":    func(p *publicationFacts) { p.Members[0].Columns = []string{"tenant", "id", "v", "w", "x"} },
		"all columns of public.items":    func(p *publicationFacts) { p.Members[0].Columns = nil },
		"all tables of schema elsewhere": func(p *publicationFacts) { p.Schemas = []publishedSchemas{{Schema: "elsewhere"}} },
		"table a; table b; table c; table d; table e; and 1 more": func(p *publicationFacts) {
			for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
				p.Members = append(p.Members, membershipFacts{Table: uint32(100 + i), Name: name})
			}
		},
	} {
		f, tables := plainFacts()
		widen(f.Publication)
		found, excess := judgePublication("outflow", f.Publication, tables, true)
		if got := describeExcess(excess); got != want || len(found) > 0 {
			t.Errorf("%q, %v; expected %q", got, found.errors(), want)
		}
	}
}

func TestGapBetweenLooks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *facts)
		says   string // "": no gap
		plan   bool
	}{
		"nothing":               {func(*facts) {}, "", false},
		"publication altered":   {func(f *facts) { f.Publication.XMin = "11" }, "was altered", false},
		"publication dropped":   {func(f *facts) { f.Publication = nil }, "was altered", false},
		"out and in":            {func(f *facts) { f.Publication.Members[0].OID = 3 }, "had lost public.items", false},
		"swapped":               {func(f *facts) { f.Tables[0].OID = 70 }, "replaced by another", true},
		"dropped":               {func(f *facts) { f.Tables[0] = tableFacts{} }, "was dropped", true},
		"truncated or packed":   {func(f *facts) { f.Tables[0].Storage[0].File = 99 }, "", false},
		"rewritten":             {func(f *facts) { f.Tables[0].Storage[0].File, f.Tables[0].Storage[0].Toast = 99, 98 }, "was rewritten", false},
		"another type":          {func(f *facts) { f.Tables[0].Columns[2].Type = 1043 }, `the type of column "v"`, false},
		"column made again":     {func(f *facts) { f.Tables[0].Columns[2].Number = 4 }, `column "v"`, true},
		"a column nobody reads": {func(f *facts) { f.Tables[0].Columns = append(f.Tables[0].Columns, columnFacts{Number: 4, Name: "w"}) }, "", false},
		"another identity":      {func(f *facts) { f.Tables[0].Storage[0].Identity = "f" }, "replica identity", true},
		"partition attached":    {func(f *facts) { partition(f) }, "partition public.leaf of public.items was attached", false},
		"partition made in place": {func(f *facts) {
			f.Tables[0].Storage = append(f.Tables[0].Storage, storageFacts{OID: 8, File: 8, Attached: " 5"})
		}, "", false},
		"partition detached":        {func(f *facts) { f.Tables[0].Storage = f.Tables[0].Storage[:1] }, "was detached or dropped", false},
		"partition truncated":       {func(f *facts) { f.Tables[0].Storage[1].File = 99 }, "public.leaf was rewritten", false},
		"one label more":            {func(f *facts) { f.Tables[0].Columns[2].Labels = new("1 a\n2 b\n3 c") }, "", false},
		"a label with another name": {func(f *facts) { f.Tables[0].Columns[2].Labels = new("1 a\n2 x") }, "labels", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, tables := plainFacts()
			now, _ := plainFacts()
			for _, f := range []*facts{&before, &now} {
				f.Tables[0].Columns[2].Labels = new("1 a\n2 b")
				if name == "partition detached" || name == "partition truncated" {
					partition(f)
				}
			}
			c.change(&now)
			got := between("outflow", before, now, tables)
			if c.says == "" && len(got.reasons) > 0 || c.says != "" && !slices.ContainsFunc(got.reasons, func(r string) bool { return strings.Contains(r, c.says) }) || got.plan != c.plan {
				t.Errorf("the gap is %q, plan %v; expected %q, plan %v", got.reasons, got.plan, c.says, c.plan)
			}
		})
	}
}
