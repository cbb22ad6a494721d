package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"outflow/internal/config"
	"outflow/internal/fit"
)

func newHealthcheck() *cobra.Command {
	var s settings
	var live bool
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask whether the process on this machine is ready; for the health check of a container",
		Long: `Healthcheck asks /readyz of the process at admin.listen whether the process streams or is a standby. With --live, Healthcheck
asks /livez whether the process' loops run, whatever the primary does. Exit codes: 0 yes, 1 no.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			path := "/readyz"
			if live {
				path = "/livez"
			}
			answer, err := askAdmin(c.Context(), cfg, path)
			if err != nil {
				return err
			}
			fmt.Fprint(c.OutOrStdout(), string(answer))
			return nil
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&live, "live", false, "ask whether the process is alive, not whether it is ready")
	return c
}

// An answer is bounded: a page of 1000 destinations with all their mappings has a few MiB, and in them far fewer objects than maxObjects. An
// object of two bytes takes a hundred times as many when it is decoded.
const (
	maxAnswer  = 16 << 20
	maxObjects = 100_000
)

// adminTimeout bounds a question to the process on this machine.
const adminTimeout = 3 * time.Second

// errNoAdmin says that there is no process to ask.
var errNoAdmin = errors.New("admin.listen is \"\": the process has no status API")

// askAdmin asks the status API of the local process.
func askAdmin(ctx context.Context, cfg *config.Config, path string) ([]byte, error) {
	if cfg.Admin.Listen == "" {
		return nil, errNoAdmin
	}
	host, port, err := net.SplitHostPort(cfg.Admin.Listen)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return nil, err
	}
	if !cfg.Admin.Token.IsZero() {
		r.Header.Set("Authorization", "Bearer "+cfg.Admin.Token.Reveal())
	}
	transport := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10} // without a proxy: the token is for this machine
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }   // and so without a redirect
	answer, err := (&http.Client{Transport: transport, CheckRedirect: stay}).Do(r)
	if err != nil {
		return nil, fmt.Errorf("the process at admin.listen does not answer: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the process at admin.listen does not answer: %s: %w", path, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the program at admin.listen is not outflow: %s has more than %d MiB", path, maxAnswer>>20)
	case bytes.Count(body, []byte("{")) > maxObjects:
		return nil, fmt.Errorf("the program at admin.listen is not outflow: %s has more than %d objects", path, maxObjects)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s: %s", path, answer.Status, fit.Text(strings.TrimSpace(string(body)), fit.Reason))
	}
	return body, nil
}
