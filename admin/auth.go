package admin

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"log"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	cookieName = "outflow_session"
	sessionFor = 12 * time.Hour
	maxBody    = 16 << 10
)

// policy lets a page load its own style and script, talk to its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// guard is in front of every handler: guard bounds the request, refuses unknown hosts and other sites' pages, and sets the
// headers of each answer.
func (s *Server) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, http.StatusForbidden, "pages of other sites may not send this request")
	}))
	next = crossOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !open(r) && !s.knows(r.Host) {
			s.fail(w, r, http.StatusMisdirectedRequest, "unknown host name; add the name to admin.hosts")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// open are the probes: a probe answers yes or no, and nothing else.
func open(r *http.Request) bool { return r.URL.Path == "/livez" || r.URL.Path == "/readyz" }

// knows reports whether a request for the host can be meant for this server. A numeric address always is: only names can be
// made to resolve to another's address.
func (s *Server) knows(host string) bool {
	name := hostName(host)
	return net.ParseIP(name) != nil || s.hosts[name]
}

// hostName is a Host header without its port and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// valid compares digests, in a time independent of both.
func (s *Server) valid(token string) bool {
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], s.digest[:]) == 1
}

// bearer reports whether the request has the token in its Authorization header (RFC 6750). The scheme is compared without regard to case,
// as RFC 9110, 11.1 demands.
func (s *Server) bearer(r *http.Request) bool {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return ok && strings.EqualFold(scheme, "Bearer") && s.valid(token)
}

// withToken lets in requests with the token in the Authorization header, or every request where no token is set.
func (s *Server) withToken(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.Token.IsZero() && !s.bearer(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="outflow"`)
			s.fail(w, r, http.StatusUnauthorized, "the token is missing or wrong; expected the header Authorization: Bearer <admin.token>")
			return
		}
		next(w, r)
	})
}

// withSession lets in logged-in browsers; others are shown the login form.
func (s *Server) withSession(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Token.IsZero() || s.bearer(r) || s.session(r) {
			next(w, r)
			return
		}
		if r.Method != http.MethodGet || r.URL.Path == "/events" {
			s.fail(w, r, http.StatusUnauthorized, "the session has ended; log in again")
			return
		}
		s.render(w, http.StatusUnauthorized, "login", loginPage{page: s.page(r, "Log in", ""), Next: local(r.URL.RequestURI())})
	})
}

// A session is the time of its end, signed with a key that only a holder of the token can make. So a session outlives a
// restart and ends when the token is changed.
func (s *Server) sign(expires string) string {
	mac := hmac.New(sha256.New, s.digest[:])
	mac.Write([]byte("outflow dashboard session\x00" + expires))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// session reports whether the cookie is a session that this token signed, and whose time has not come. The signature is checked before the time
// is parsed: an unsigned cookie is not worth parsing.
func (s *Server) session(r *http.Request) bool {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	expires, signature, _ := strings.Cut(c.Value, ".")
	if !hmac.Equal([]byte(signature), []byte(s.sign(expires))) {
		return false
	}
	at, err := strconv.ParseInt(expires, 10, 64)
	return err == nil && time.Now().Unix() < at
}

type loginPage struct {
	page
	Next   string
	Failed bool
}

// login exchanges the token for a cookie. Without a token in the configuration there is nothing to log in to.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	next := local(r.PostFormValue("next"))
	if s.Token.IsZero() {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	if !s.valid(r.PostFormValue("token")) {
		s.loginFailed(r)
		s.render(w, http.StatusUnauthorized, "login", loginPage{page: s.page(r, "Log in", ""), Next: next, Failed: true})
		return
	}
	expires := strconv.FormatInt(time.Now().Add(sessionFor).Unix(), 10)
	http.SetCookie(w, s.cookie(r, expires+"."+s.sign(expires), int(sessionFor.Seconds())))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// loginFailed logs failed logins, at most one line a second: any client that reaches the port may try, and must not fill the disk with log.
func (s *Server) loginFailed(r *http.Request) {
	s.loginMu.Lock()
	defer s.loginMu.Unlock()
	if s.failedLogins++; time.Since(s.loginTold) < time.Second {
		return
	}
	s.Log.Warn("a login to the dashboard failed", zap.String("remote", remote(r)), zap.Int("failed_since_the_last_line", s.failedLogins))
	s.failedLogins, s.loginTold = 0, time.Now()
}

// logout removes the cookie from this browser. A copied cookie stays valid until its time: the server keeps no list of sessions.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, s.cookie(r, "", -1))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// cookie is HttpOnly, so that no script reads the cookie, and SameSite, so that no request of another site carries the cookie.
func (s *Server) cookie(r *http.Request, value string, age int) *http.Cookie {
	secure := r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
	return &http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: age, HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode}
}

// returnable are the paths of the pages to which a login may return.
var returnable = regexp.MustCompile(`^/(destination|destination/(pause|resync)|switches|switches/(reading|applying|backfills)|tables|configuration)?$`)

// local is the address of the page to which a login returns: a page of the dashboard, else the overview. The address is written again from
// its parts. A filter of bad addresses would have to know how http.Redirect and every browser change an address: the path /./\evil becomes
// /\evil, which browsers take for the host evil.
func local(target string) string {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "" || u.Opaque != "" || u.User != nil || u.Host != "" || !returnable.MatchString(u.Path) {
		return "/"
	}
	return (&url.URL{Path: u.Path, RawQuery: u.Query().Encode()}).String()
}

// remote is the address of the client, for the record.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// quiet takes the messages of net/http about clients that go away or send nonsense.
func quiet(l *zap.Logger) *log.Logger {
	std, err := zap.NewStdLogAt(l.With(zap.String("component", "admin")), zap.DebugLevel)
	if err != nil {
		return nil // only an unknown level fails
	}
	return std
}
