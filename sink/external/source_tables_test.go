package external

import (
	"slices"
	"testing"
	"time"
)

func TestSourceTables(t *testing.T) {
	t.Parallel()
	other := relation(2, "other", "id integer", "owner text")
	all := SourceTables{{Relation: item, Tenant: "tenant"}, {Relation: other, Tenant: "owner"}}
	altered := relation(2, "other", "added text", "id integer", "owner text") // the same table, after an ALTER TABLE
	unknown := relation(3, "item", "tenant text", "id integer")               // a table dropped and created again
	if all.Relation("item") != item || all.Relation("absent") != nil {
		t.Error("relations are not found by name")
	}
	if all.TenantColumn(item) != 0 || all.TenantColumn(other) != 1 || all.TenantColumn(altered) != 2 || all.TenantColumn(unknown) != -1 {
		t.Error("the tenant's column is another one")
	}
	if all.Find(altered) != &all[1] || all.Find(unknown) != nil {
		t.Error("tables are not found by their number")
	}
	if !slices.Equal(all.Names(), []string{"item", "other"}) {
		t.Errorf("the names are %v", all.Names())
	}
}

func TestAnswerTimeout(t *testing.T) {
	t.Parallel()
	if o := (Options{StatementTimeout: time.Minute, LockTimeout: time.Second}); o.AnswerTimeout() != 61*time.Second {
		t.Errorf("%s", o.AnswerTimeout())
	}
}
