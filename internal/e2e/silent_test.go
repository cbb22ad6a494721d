package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"outflow/internal/command"
	"outflow/internal/fit"
	"outflow/internal/pgcluster/pgtest"
	"outflow/internal/secret"
)

// run runs a command in this process and returns what a terminal gets, and the exit code.
func (w *world) run(args ...string) (string, int) {
	w.tb.Helper()
	var out strings.Builder
	ctx, cancel := context.WithTimeout(w.tb.Context(), 60*time.Second)
	defer cancel()
	code := command.Execute(ctx, "test", append(args, "--config", w.configFile()), &out, &out)
	return out.String(), code
}

// steersTerminal reports whether a terminal may obey the character instead of showing the character.
func steersTerminal(r rune) bool { return r != '\n' && r != '\t' && fit.IsControl(r) }

// With any hostile peer at admin.listen status soon shows the primary's notes, and healthcheck says no.
func TestHostileStatusAPI(t *testing.T) {
	anyVersion(t)
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	for name, answer := range map[string]http.HandlerFunc{
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"dripping": func(w http.ResponseWriter, r *http.Request) {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_, _ = io.WriteString(w, " ")
					_ = http.NewResponseController(w).Flush()
				case <-r.Context().Done():
					return
				}
			}
		},
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			blanks := []byte(strings.Repeat(" ", 1<<20))
			for range 64 {
				if _, err := w.Write(blanks); err != nil {
					return
				}
			}
		},
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, evil) },
		"other types": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"destinations": 7, "lag": [], "slot": "x"}`)
		},
		"deep": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat(`{"x":`, 100_000))
		},
		"objects": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"reasons":[{}`+strings.Repeat(",{}", 1<<20)+`],"destinations":[{}`+strings.Repeat(",{}", 1<<20)+`]}`)
		},
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, strings.Repeat(evil, 10_000), 500) },
		"elsewhere": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			defer server.CloseClientConnections() // Close waits for these
			copied := *w.cfg
			copied.Admin.Listen = strings.TrimPrefix(server.URL, "http://")
			w := &world{tb: t, cfg: &copied}
			began := time.Now()
			out, code := w.run("status")
			if took := time.Since(began); code != 0 || took > 10*time.Second || len(out) > 4<<10 || strings.IndexFunc(out, steersTerminal) >= 0 {
				t.Errorf("after %s: exit code %d, %d bytes: %.1000q", took, code, len(out), out)
			}
			contains(t, out, "these are the notes on the primary", "asked there: ", tenant1+"/main")
			out, code = w.run("healthcheck", "--live")
			if name != "no JSON" && name != "other types" && name != "deep" && code == 0 || strings.IndexFunc(out, steersTerminal) >= 0 {
				t.Errorf("exit code %d: %.200q", code, out)
			}
		})
	}
}

// A status with hostile texts is shown, and obeyed by no terminal.
func TestHostileStatus(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		const text = `\u001b[2J\u009b31m\u202e\n\tx`
		fmt.Fprintf(w, `{"state":"%[1]s","role":"streaming","version":"%[1]s","reasons":[{"severity":"%[1]s","message":"%[1]s"}],"slot":{"name":"%[1]s"},
			"destinations":[{"tenant":"%[1]s","name":"%[1]s","state":"%[1]s","reason":"%[1]s","mappings":[{"name":"%[1]s"}]}],"total":1}`, text)
	}))
	defer server.Close()
	w := newWorld(t, pgtest.Shared(t))
	w.cfg.Admin.Listen = strings.TrimPrefix(server.URL, "http://")
	for _, form := range []string{"text", "json"} {
		out, _ := w.run("status", "-o", form)
		if strings.IndexFunc(out, steersTerminal) >= 0 {
			t.Errorf("%q", out)
		}
	}
}

// Every command soon names a primary without answers: silent from the beginning, or silent later.
func TestSilentPrimary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	w.destination(tenant1, "main")
	r := w.start()
	r.caughtUp()
	l, err := net.Listen("tcp4", "127.0.0.1:0") // the kernel accepts, and nobody reads
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	later := newGarbler(t, w.source)
	later.set(0, nil)
	var all sync.WaitGroup
	for _, c := range []struct {
		host, dsn string
		code      int
		args      []string
	}{
		{l.Addr().String(), "", 1, []string{"status"}},
		{l.Addr().String(), "", 1, []string{"check"}},
		{l.Addr().String(), "", 2, []string{"verify"}},
		{l.Addr().String(), "", 1, []string{"pause", tenant1 + "/main"}},
		{l.Addr().String(), "", 1, []string{"retry", "--all"}},
		{l.Addr().String(), "", 1, []string{"resync", "--no-wait"}},
		{later.address, later.url, 1, []string{"pause", tenant1 + "/main"}},
		{later.address, later.url, 1, []string{"resume", tenant1 + "/main"}},
	} {
		copied := *w.cfg
		if c.dsn == "" {
			c.dsn = "postgres://u:p@" + c.host + "/d?connect_timeout=1&sslmode=disable"
		}
		copied.Source.DSN = secret.New(c.dsn)
		one := &world{tb: t, cfg: &copied}
		all.Go(func() {
			began := time.Now()
			out, code := one.run(c.args...)
			if took := time.Since(began); took > 30*time.Second || !strings.Contains(out, c.host) {
				t.Errorf("%s, %s: after %s: %s", c.args, c.host, took, out)
			}
			if code != c.code {
				t.Errorf("%s, %s: exit code %d: %s", c.args, c.host, code, out)
			}
		})
	}
	all.Wait()
}

// Names that no destination can have are a usage error, and no server is asked for them.
func TestNamesThatNobodyHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t))
	for _, args := range [][]string{{"resync", "--no-wait", "--tenant", "a\x00"}, {"verify", "--name", "a\x00"}, {"check", "--tenant", "\x00"}} {
		out, code := w.run(args...)
		if code != 2 || !strings.Contains(out, "--") {
			t.Errorf("%q: exit code %d: %s", args, code, out)
		}
	}
}
