package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// rule is an alert of prometheus/alerts.yaml.
type rule struct {
	Alert, Expr string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (all []rule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 10 {
		t.Fatalf("%d alerts", len(all))
	}
	return all
}

// queries are the expressions of all panels of the Grafana dashboard.
func queries(t *testing.T) map[string]string {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/outflow.json")), &board); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			all[p.Title+" "+target.RefID] = target.Expr
		}
	}
	if len(all) < 10 {
		t.Fatalf("%d queries", len(all))
	}
	return all
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// described are the metrics that the program has, with their labels.
func described(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t\{"(\w+)", "[^"]*", (?:nil|\[\]string\{(.*)\})\},$`).FindAllStringSubmatch(read(t, "../admin/metrics.go"), -1) {
		all["outflow_"+m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune(`", `, r) })
	}
	if len(all) < 20 {
		t.Fatalf("admin/metrics.go has %d metrics", len(all))
	}
	return all
}

var (
	selector = regexp.MustCompile(`\b(outflow_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!=|!~|=)\s*"`)
)

// Alerts and dashboard ask for nothing that the program does not show: such a rule would never fire.
func TestQueriesFindMetrics(t *testing.T) {
	metrics := described(t)
	exprs := queries(t)
	for _, a := range alerts(t) {
		exprs[a.Alert] = a.Expr
	}
	for label, expr := range exprs {
		for _, m := range selector.FindAllStringSubmatch(expr, -1) {
			labels, ok := metrics[m[1]]
			if !ok {
				t.Errorf("%s asks for %s, which there is not", label, m[1])
			}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(append([]string{"job", "instance"}, labels...), l[1]) {
					t.Errorf("%s asks for the label %s of %s, which has %v", label, l[1], m[1], labels)
				}
			}
		}
	}
	for _, doc := range []string{"../docs/operating.md", "../README.md"} {
		for _, name := range regexp.MustCompile("`(outflow_[a-z0-9_]+)").FindAllStringSubmatch(read(t, doc), -1) {
			if _, ok := metrics[name[1]]; !ok {
				t.Errorf("%s names %s, which there is not", doc, name[1])
			}
		}
	}
}

// Alerts follow the figures of the headline, and an alert about destinations does not resolve because no process reads the slot: a standby has
// the figures too.
func TestAlertsFollowTheFigures(t *testing.T) {
	asked := map[string]bool{}
	for _, a := range alerts(t) {
		for _, m := range selector.FindAllStringSubmatch(a.Expr, -1) {
			asked[m[1]] = true
		}
		if !strings.Contains(a.Expr, "outflow_destinations") {
			continue
		}
		if strings.Contains(a.Expr, "outflow_role") || strings.Contains(strings.ReplaceAll(a.Expr, "sum by (job) (max by (job, state) (outflow_destinations", ""), "sum by (job) (outflow_destinations") {
			t.Errorf("%s counts only while a process streams, or counts a standby twice: %s", a.Alert, a.Expr)
		}
	}
	for _, figure := range []string{"outflow_destinations", "outflow_destinations_in_sync", "outflow_lag_seconds", "outflow_lag_p50_seconds"} {
		if !asked[figure] {
			t.Errorf("no alert asks for %s", figure)
		}
	}
}

// The guide says for each alert what the alert means and what to do, and describes no alert that never fires.
func TestAlertsAreDescribed(t *testing.T) {
	guide := anchors(read(t, "../docs/operating.md"))
	var described []string
	for _, a := range alerts(t) {
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" || !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s lacks summary, description or severity", a.Alert)
		}
		file, anchor, _ := strings.Cut(a.Annotations["runbook_url"], "#")
		if file != "docs/operating.md" || anchor != strings.ToLower(a.Alert) || !slices.Contains(guide, anchor) {
			t.Errorf("%s: the runbook is %q, and there is no such part", a.Alert, a.Annotations["runbook_url"])
		}
		described = append(described, anchor)
	}
	for _, anchor := range guide {
		if strings.HasPrefix(anchor, "outflow") && !slices.Contains(described, anchor) {
			t.Errorf("operating.md describes %s, and there is no such alert", anchor)
		}
	}
}

// anchors are those of a document's headings, as GitHub makes them.
func anchors(text string) (all []string) {
	text = regexp.MustCompile("(?s)```.*?```").ReplaceAllString(text, "") // a comment of a shell is no heading
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		kept := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(h[1]), "")
		all = append(all, strings.ReplaceAll(kept, " ", "-"))
	}
	return all
}

func TestLinksLead(t *testing.T) {
	var docs []string
	for _, pattern := range []string{"*.md", "../*.md", "../docs/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, found...)
	}
	for _, doc := range docs {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(read(t, doc), -1) {
			file, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(file, "://") {
				continue
			}
			target := doc
			if file != "" {
				target = filepath.Join(filepath.Dir(doc), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s links to %s, where there is no such heading", doc, m[1])
			}
		}
	}
}
