package admin

import (
	"fmt"
	"html/template"
	"math"
	"path"
	"reflect"
	"strings"
	"time"

	"outflow/admin/monitor"
	"outflow/sink/ledger"
)

// functions are for the templates. Functions for values that may be unknown take pointers.
var functions = template.FuncMap{
	"bytes": func(n *int64) string {
		if n == nil {
			return monitor.NoValue
		}
		return monitor.BytesText(*n)
	},
	"plainBytes": monitor.BytesText, "plainSeconds": monitor.DurationText,
	"seconds": func(s *float64) string {
		if s == nil {
			return monitor.NoValue
		}
		return monitor.DurationText(*s)
	},
	"number": func(n any) string {
		switch n := n.(type) {
		case int:
			return monitor.NumberText(int64(n))
		case int64:
			return monitor.NumberText(n)
		case *int:
			if n != nil {
				return monitor.NumberText(int64(*n))
			}
		case *int64:
			if n != nil {
				return monitor.NumberText(*n)
			}
		}
		return monitor.NoValue
	},
	"perSecond": func(r *float64) string {
		switch {
		case r == nil:
			return monitor.NoValue
		case *r > 0 && *r < 10:
			return fmt.Sprintf("%.1f/s", *r)
		}
		return monitor.NumberText(int64(math.Round(*r))) + "/s"
	},
	"text": func(s *string) string {
		if s == nil {
			return monitor.NoValue
		}
		return *s
	},
	"lsn": func(p *monitor.Position) string {
		if p == nil {
			return monitor.NoValue
		}
		return p.Text
	},
	"ago": ago, "until": until, "icon": icon, "stateIcon": stateIcon, "stateTitle": title, "stateWords": stateWords, "switchTitle": monitor.SwitchTitle,
	"percent": percent, "spark": spark, "count": func(n any, one string) string {
		if fmt.Sprint(n) == "1" {
			return "1 " + one
		}
		return monitor.NumberText(reflect.ValueOf(n).Int()) + " " + one + "s"
	}, "base": path.Base, "add": func(a, b int) int { return a + b }, "clean": monitor.Clean,
}

// stamp shows words, with the exact time for a pointer or a screen reader. Both are escaped here, because template.HTML is not escaped again.
func stamp(t time.Time, words string) template.HTML {
	utc := t.UTC().Format(time.RFC3339)
	return template.HTML(`<time datetime="` + utc + `" title="` + utc + `">` + template.HTMLEscapeString(words) + `</time>`)
}

// ago shows how long ago a time was; nil is not known.
func ago(t *time.Time) template.HTML {
	if t == nil {
		return monitor.NoValue
	}
	d := time.Since(*t)
	if d < time.Second {
		return stamp(*t, "just now")
	}
	return stamp(*t, monitor.WholeText(d)+" ago")
}

// until shows how far away a time is; a time that has passed is now.
func until(t *time.Time) template.HTML {
	if t == nil {
		return monitor.NoValue
	}
	if d := time.Until(*t); d > time.Second {
		return stamp(*t, "in "+monitor.WholeText(d))
	}
	return stamp(*t, "now")
}

// icons are drawn in the text's colour on a grid of 16. Each icon has a shape of its own: colour carries no meaning beyond
// the shape.
var icons = map[string]string{
	"ok":    `<circle cx="8" cy="8" r="6.5"/><path d="M5 8.3 7.2 10.5 11 6"/>`,
	"warn":  `<path d="M8 2 14.5 13.5h-13z"/><path d="M8 6.5v3.2M8 11.6v.2"/>`,
	"bad":   `<path d="M5.3 1.5h5.4l3.8 3.8v5.4l-3.8 3.8H5.3l-3.8-3.8V5.3z"/><path d="m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4"/>`,
	"info":  `<circle cx="8" cy="8" r="6.5"/><path d="M8 7.3v3.9M8 4.8v.2"/>`,
	"retry": `<path d="M13.2 5A6 6 0 1 0 14 8"/><path d="M13.5 1.8V5h-3.2"/>`,
	"park":  `<rect x="2" y="2" width="12" height="12" rx="3"/><path d="M6.3 12V4.5h2.4a2.2 2.2 0 0 1 0 4.4H6.3"/>`,
	"pause": `<circle cx="8" cy="8" r="6.5"/><path d="M6.3 5.5v5M9.7 5.5v5"/>`,
	"copy":  `<path d="M8 2v8M4.8 7 8 10.2 11.2 7"/><path d="M2.5 13.5h11"/>`,
	"flow":  `<path d="M1.5 5.5c2.2-2 4.3-2 6.5 0s4.3 2 6.5 0M1.5 10.5c2.2-2 4.3-2 6.5 0s4.3 2 6.5 0"/>`,
	"on":    `<rect x="1" y="4" width="14" height="8" rx="4"/><circle cx="11" cy="8" r="2.2"/>`,
	"off":   `<rect x="1" y="4" width="14" height="8" rx="4"/><circle cx="5" cy="8" r="2.2"/>`,
	"wait":  `<circle cx="8" cy="8" r="6.5"/><path d="M8 4.5V8l2.4 1.6"/>`,
}

// icon draws one of the icons, which say nothing to a screen reader: each stands beside its word.
func icon(name string) template.HTML {
	return template.HTML(`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">` + icons[name] + `</svg>`)
}

// stateIcon is the icon of a state, of a destination or of the whole.
func stateIcon(state string) template.HTML {
	return icon(map[string]string{string(ledger.Halted): "bad", string(ledger.Parked): "park", string(ledger.Retrying): "retry",
		string(ledger.Paused): "pause", string(ledger.Backfilling): "copy", string(ledger.Streaming): "flow", string(monitor.Healthy): "ok",
		string(monitor.Degraded): "warn", string(monitor.Failing): "bad", monitor.Critical: "bad", monitor.Warning: "warn", monitor.Notice: "info"}[state])
}

// stateWords explains a state to a person.
func stateWords(state string) string {
	return map[string]string{
		string(ledger.Halted):      "An operator must correct a mapping, a row or a right. Outflow retries seldom; the destination stays halted until the failed work succeeds.",
		string(ledger.Parked):      "The database was away for longer than the queue could hold. The stream goes on without it; it is copied again when it answers.",
		string(ledger.Retrying):    "The last attempt failed. Outflow retries, with growing pauses.",
		string(ledger.Paused):      "An operator paused the destination. Changes wait in the queue; when the queue is full, the destination is parked, and copied again later.",
		string(ledger.Backfilling): "Rows are being copied from the primary's tables, while live changes go on.",
		string(ledger.Streaming):   "Changes are applied as they arrive.",
	}[state]
}

// title is a word with a capital letter.
func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// percent is for a bar: the share of n in total, from 0 to 100.
func percent(n, total int64) int {
	if total <= 0 {
		return 0
	}
	return int(min(100, max(0, 100*n/total)))
}

const sparkWidth, sparkHeight = 300, 44

// spark draws values, the newest at the right. The label describes the drawing to readers who cannot see.
func spark(values []float64, words string) template.HTML {
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	var line strings.Builder
	first := float64(sparkWidth)
	for i, v := range values {
		x := float64(sparkWidth) * (1 - float64(len(values)-1-i)/float64(monitor.PointsKept-1))
		y := float64(sparkHeight) - 1.5
		if top > 0 {
			y -= v / top * (sparkHeight - 4)
		}
		if i == 0 {
			first = x
		}
		fmt.Fprintf(&line, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], x, y)
	}
	area := fmt.Sprintf("%sL%d %dL%.1f %dZ", line.String(), sparkWidth, sparkHeight, first, sparkHeight)
	if len(values) < 2 {
		area, line = "", strings.Builder{}
	}
	return template.HTML(fmt.Sprintf(`<svg class="spark" viewBox="0 0 %d %d" preserveAspectRatio="none" role="img" aria-label="%s"><path class="area" d="%s"/><path class="line" d="%s"/></svg>`,
		sparkWidth, sparkHeight, template.HTMLEscapeString(words), area, line.String()))
}
