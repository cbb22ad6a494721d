package admin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"outflow/internal/secret"
)

// serve runs a server until the test ends, and returns its address.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.listener.Addr().String()
}

// dialFrom opens a connection from a loopback address of its own.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// alive asks a probe on a connection.
func alive(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", answer.Status)
	}
	return nil
}

// Clients with very many connections take places from each other, and never from a probe.
func TestConnectionsAreBounded(t *testing.T) {
	for name, open := range map[string]func(conn net.Conn){
		"idle":         func(net.Conn) {},
		"half headers": func(conn net.Conn) { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") },
		"half a body": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntoken=")
		},
		"kept alive": func(conn net.Conn) { _ = alive(conn) },
		"events unread": func(conn net.Conn) {
			_, _ = io.WriteString(conn, "GET /events?page=overview HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, newServer(t, token, nil))
			probe := dialFrom(t, "127.0.0.1", address) // kept alive, as kubelet and reverse proxies do
			if err := alive(probe); err != nil {
				t.Fatal(err)
			}
			for range maxConnections + 150 {
				open(dialFrom(t, "127.0.0.2", address))
			}
			for range 3 {
				if err := alive(dialFrom(t, "127.0.0.1", address)); err != nil {
					t.Errorf("a probe of another address: %v", err)
				}
			}
			if err := alive(probe); err != nil {
				t.Errorf("a probe on its old connection: %v", err)
			}
			if err := alive(dialFrom(t, "127.0.0.2", address)); err != nil {
				t.Errorf("a probe of the same address: %v", err)
			}
		})
	}
}

func TestTenThousandConnections(t *testing.T) {
	address := serve(t, newServer(t, token, nil))
	for range 10_000 {
		conn, err := net.Dial("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() { // the client leaves the connection open
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}()
	}
	began := time.Now()
	if err := alive(dialFrom(t, "127.0.0.1", address)); err != nil || time.Since(began) > 10*time.Second { // the race detector on a busy machine takes 3 s
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// FuzzLocal: after a login with any target the browser stays on the server, on a page of the dashboard.
func FuzzLocal(f *testing.F) {
	for _, target := range []string{"/", "/switches", "/destination?tenant=a&name=b", `/./\evil.example`, "//evil.example", `/\evil.example`, "/%5cevil",
		"/\t/evil", "https://evil.example", "/..//evil", "/switches/../../\\evil", "/destination?x=\r\nSet-Cookie: a=b", "/switches#//evil", "javascript:alert(1)", ""} {
		f.Add(target)
	}
	s, err := New(Config{Options: Options{Listen: "127.0.0.1:0", Token: secret.New(token)}, Store: store(), Log: zap.NewNop()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r := httptest.NewRequest(http.MethodPost, "/login", strings.NewReader(url.Values{"token": {token}, "next": {target}}.Encode()))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		location := w.Header().Get("Location")
		path, _, _ := strings.Cut(location, "?")
		if w.Code != http.StatusSeeOther || !returnable.MatchString(path) || strings.ContainsAny(location, "\\\r\n\t\x00 ") {
			t.Errorf("%q: %d to %q", target, w.Code, location)
		}
	})
}

func TestLoginReturnsToThePage(t *testing.T) {
	for target, want := range map[string]string{"/destination?tenant=a%26b&name=c": "/destination?name=c&tenant=a%26b", "/?state=halted": "/?state=halted",
		"/switches/reading": "/switches/reading", "/api/status": "/", "/logout": "/", "/destination/retry": "/", `/./\evil`: "/"} {
		if got := local(target); got != want {
			t.Errorf("%q: %q", target, got)
		}
	}
}
