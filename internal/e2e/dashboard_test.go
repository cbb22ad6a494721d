package e2e

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"outflow/internal/pgcluster/pgtest"
	"outflow/sink/ledger"
)

// browser is a page in headless Chromium. OUTFLOW_TEST_SCREENSHOTS names a directory for what it looks like.
type browser struct {
	testing.TB
	ctx context.Context
	url string
}

func newBrowser(tb testing.TB, url string) *browser {
	tb.Helper()
	path, err := osexec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal(err)
		}
		tb.Skip("there is no chromium: internal/e2e/testdata/chromium.sh installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.NoFirstRun, chromedp.UserDataDir(tb.TempDir()))
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	tb.Cleanup(stop)
	ctx, stopAllocator := chromedp.NewExecAllocator(ctx, options...)
	tb.Cleanup(stopAllocator)
	ctx, stopPage := chromedp.NewContext(ctx)
	tb.Cleanup(stopPage)
	b := &browser{tb, ctx, url}
	b.look(1280, 900, "light")
	return b
}

// do does something in the page and returns what it gives.
func do[T any](b *browser, action chromedp.Action[T]) T {
	b.Helper()
	v, err := chromedp.Run(b.ctx, action)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	for _, a := range actions {
		do(b, a)
	}
}

// look sets the size of the window and the colours that a person prefers.
func (b *browser) look(width, height int64, scheme string) {
	b.Helper()
	b.run(chromedp.EmulateViewport(width, height),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			return err
		}))
}

// shot takes a screenshot of the whole page.
func (b *browser) shot(name string) {
	b.Helper()
	dir := os.Getenv("OUTFLOW_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	png := do(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		b.Fatal(err)
	}
}

func (b *browser) visit(path string) {
	b.Helper()
	b.run(chromedp.Navigate(b.url + path))
}

// press clicks on what loads another page, and waits until that is there.
func (b *browser) press(selector string) {
	b.Helper()
	do(b, chromedp.Evaluate[bool](`window.pressed = true`))
	waitFor(b, selector+" to be pressed", func() error { // a live update may take the node away under the mouse
		_, err := chromedp.Run(b.ctx, chromedp.Click(selector))
		if err != nil && !strings.Contains(err.Error(), "Could not find node") {
			b.Fatal(err)
		}
		return err
	})
	waitFor(b, "the next page", func() error {
		old, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`window.pressed === true || document.readyState != "complete"`))
		if err == nil && old {
			err = fmt.Errorf("it is still the old one")
		}
		return err
	})
}

// shows waits until the page shows the text in what the selector finds; the page is not loaded again.
func (b *browser) shows(selector, text string) {
	b.Helper()
	waitFor(b, fmt.Sprintf("%s to show %q", selector, text), func() error {
		has, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](
			fmt.Sprintf(`[...document.querySelectorAll(%q)].map(e => e.innerText).join(" | ")`, selector)))
		if err == nil && !strings.Contains(has, text) {
			err = fmt.Errorf("it shows %.500q", has)
		}
		return err
	})
}

// count is how often the page has what the selector finds.
func (b *browser) count(selector string) int {
	b.Helper()
	return do(b, chromedp.Evaluate[int](fmt.Sprintf(`document.querySelectorAll(%q).length`, selector)))
}

// wider reports whether the page must be scrolled sideways.
func (b *browser) wider() bool {
	b.Helper()
	return do(b, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > window.innerWidth`))
}

// A person logs in, sees what is wrong and what happens, live, and acts on it.
func TestDashboard(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.mapping("refusing", refusing)
	w.destination(tenant1, "main")
	w.destination(tenant2, "poisoned", "refusing")
	w.gated(tenant3, "away")
	s := w.serve()
	w.user(tenant1, "00000000-0000-4000-8000-000000000001", "Ada")
	s.destinationIs(tenant1, "main", ledger.Streaming)
	s.destinationIs(tenant2, "poisoned", ledger.Streaming)

	b := newBrowser(t, s.url)
	b.visit("/switches")
	b.run(chromedp.SendKeys("#token", "wrong"), chromedp.Submit("#token"))
	b.shows(".wrong", "Wrong token")
	b.run(chromedp.SendKeys("#token", adminToken), chromedp.Submit("#token"))
	b.shows("h1", "Switches")
	b.visit("/")
	b.shows("#live", "live")
	b.shows("tr.retrying", tenant3)

	// Live: without another load of the page a row halts, and the numbers move.
	do(b, chromedp.Evaluate[bool](`window.notLoadedAgain = true`))
	w.user(tenant2, "00000000-0000-4000-8000-000000000002", `<img src=x onerror="document.title='pwned'">`)
	b.shows("tr.halted", "an exception was raised")
	b.shows(".banner.degraded .reasons", "halted")
	b.shows(".banner.degraded h1", "1 of 3 in sync")
	for i := range 40 {
		w.user(tenant1, fmt.Sprintf("00000000-0000-4000-8000-0000000001%02d", i), "Bo")
	}
	b.shows(".tile .facts", "Rows since start\n41")
	same, title := do(b, chromedp.Evaluate[bool](`window.notLoadedAgain === true`)), do(b, chromedp.Title())
	if !same || title == "pwned" || b.count("main img") != 0 {
		t.Errorf("loaded again: %t, title %q, %d images", !same, title, b.count("main img"))
	}
	b.shots()

	// A try now: the refused row is tried again, and halts it again.
	failures := s.destinationIs(tenant2, "poisoned", ledger.Halted).Attempts
	b.press(`tr.halted form[action="/destination/retry"] button`)
	b.shows("[data-live=detail]", "an exception was raised")
	waitFor(t, "the try", func() error {
		if n := s.destinationIs(tenant2, "poisoned", ledger.Halted).Attempts; n <= failures {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	b.visit("/")
	b.shows("#live", "live")

	// Pause and resume, from the table and from the destination's page.
	b.press(`tr.streaming a[href^="/destination/pause"]`)
	b.shows("h1", "Pause "+tenant1+"/main?")
	b.run(chromedp.SendKeys("#reason", `moving house <img src=x onerror="document.title='pwned'">`), chromedp.SendKeys("#by", "Grace"), chromedp.Submit("#reason"))
	b.shows("[data-live=detail]", "moving house <img src=x") // a text of a person is shown as text
	if title := do(b, chromedp.Title()); title == "pwned" || b.count("main img") != 0 {
		t.Errorf("title %q, %d images", title, b.count("main img"))
	}
	s.destinationIs(tenant1, "main", ledger.Paused)
	b.shot("destination-paused")
	b.press(`form[action="/destination/resume"] button`)
	b.shows("[data-live=detail] .panel-head", "Streaming")

	// Resync asks first.
	before := len(s.destinationIs(tenant1, "main", ledger.Streaming).History)
	b.press(`a[href^="/destination/resync"]`)
	b.shows("h1", "again?")
	b.shot("confirm")
	b.press(`button.primary`)
	waitFor(t, "the resync", func() error {
		if d := s.destinationIs(tenant1, "main", ledger.Streaming); len(d.History) < before+2 {
			return fmt.Errorf("its history is %+v", d.History)
		}
		return nil
	})
	b.shows("[data-live=detail]", "Backfilling")

	// A switch says what it costs.
	b.visit("/switches/reading")
	b.shows(".means", "The primary retains all WAL from now on")
	b.press(`button.primary`)
	b.shows("[data-live=fuses]", "Off")
	b.shows(".banner.degraded h1", "Degraded")
	b.shot("switches")
	b.press(`form[action="/switches/reading"] button`)
	b.shows("[data-live=fuses] .state.on", "On")
	w.user(tenant1, "00000000-0000-4000-8000-000000000999", "Zoe")
	b.visit("/tables")
	b.shows("tbody tr", "public.ProjectUser")
	b.visit("/configuration")
	b.shows(".config", "source:")
	b.shot("configuration")
	b.visit("/destination?tenant=" + tenant2 + "&name=poisoned")
	b.run(chromedp.WaitVisible("#h-error"))
	b.shot("destination-halted")
}

// shots takes the overview in light, dark and at a phone's width, where nothing may stick out.
func (b *browser) shots() {
	b.Helper()
	b.shot("light")
	b.look(1280, 900, "dark")
	b.shot("dark")
	b.look(390, 844, "light")
	if b.wider() {
		b.Error("the page is wider than a phone")
	}
	b.shot("phone")
	b.look(1280, 900, "light")
}
