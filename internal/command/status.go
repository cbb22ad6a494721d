package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"outflow/admin/monitor"
	"outflow/internal/config"
	"outflow/internal/pipeline"
	"outflow/replication/primary"
	"outflow/sink/ledger"
)

// statusReport is the output of outflow status, printed with -o json too.
type statusReport struct {
	From         string                `json:"from"`          // process, or primary where no process answers
	Why          string                `json:"why,omitempty"` // why it is not from the process
	Status       monitor.Status        `json:"status"`
	Destinations []monitor.Destination `json:"destinations"` // the worst first
	Total        int                   `json:"total"`
}

// watchStatus is the pause between two looks of --watch.
const watchStatus = 2 * time.Second

func newStatus(version string) *cobra.Command {
	var s settings
	var output string
	var watch bool
	var limit int
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the slot and of every destination, the worst first",
		Long: `Status asks the process at admin.listen how many destinations are in sync, the lag of the streaming destinations, and each destination
with its mappings. If no process answers, or the process is a standby, Status shows the destinations as the process that reads the slot
noted them on the primary at its last checkpoint, and names that process. Exit code 0: the state could be read.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if limit < 1 || limit > 1000 {
				return usageError{fmt.Errorf("--limit %d: expected 1 to 1000", limit)}
			}
			cfg, err := s.load()
			if err != nil {
				return err
			}
			for {
				if err := showStatus(c, cfg, version, output, limit, watch); err != nil || !watch {
					return err
				}
				select {
				case <-c.Context().Done():
					return nil
				case <-time.After(watchStatus):
				}
			}
		},
	}
	s.flags(c)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "refresh every two seconds, until Ctrl-C")
	c.Flags().IntVar(&limit, "limit", 50, "destinations to show")
	return c
}

func showStatus(c *cobra.Command, cfg *config.Config, version, output string, limit int, watch bool) error {
	r, err := statusFromProcess(c.Context(), cfg, limit)
	if err != nil {
		why := err
		if errors.Is(c.Context().Err(), context.Canceled) {
			return c.Context().Err()
		}
		if r, err = statusFromPrimary(c.Context(), cfg, version, limit); err != nil {
			return errors.Join(why, err)
		}
		r.Why = why.Error()
	}
	out := c.OutOrStdout()
	if output == "json" {
		e := json.NewEncoder(out)
		if !watch { // else one line a look
			e.SetIndent("", "  ")
		}
		return e.Encode(r)
	}
	if t := terminal(out); watch && t != nil {
		fmt.Fprint(t, "\x1b[H\x1b[2J")
	}
	return r.write(out)
}

func statusFromProcess(ctx context.Context, cfg *config.Config, limit int) (*statusReport, error) {
	r := &statusReport{From: "process"}
	var page monitor.Page
	for path, into := range map[string]any{"/api/status": &r.Status, fmt.Sprintf("/api/destinations?limit=%d", limit): &page} {
		answer, err := askAdmin(ctx, cfg, path)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(answer, into); err != nil {
			return nil, fmt.Errorf("the program at admin.listen is not outflow, or has another version: %s: %w", path, err)
		}
	}
	r.Destinations, r.Total = page.Destinations, page.Total
	return r, nil
}

func statusFromPrimary(ctx context.Context, cfg *config.Config, version string, limit int) (*statusReport, error) {
	ctx, cancel := context.WithTimeout(ctx, primary.Patience)
	defer cancel()
	server, err := pipeline.Primary(cfg)
	if err != nil {
		return nil, err
	}
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, primary.ExplainConnect(server, err)
	}
	defer primary.HangUp(conn)
	slot, err := primary.Slot{Name: cfg.Source.Slot}.Status(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("the primary at %s: replication slot %q: %w", server.Address(), cfg.Source.Slot, err)
	}
	state := &ledger.Store{Slot: cfg.Source.Slot, Connect: server.Connect}
	defer state.Close()
	book := monitor.ReadNotebook(ctx, state)
	if book.Err != nil {
		return nil, fmt.Errorf("the primary at %s: %w", server.Address(), book.Err)
	}
	r := &statusReport{From: "primary", Status: monitor.Noted(version, cfg.Source.Slot, slot, book)}
	all := monitor.NotedDestinations(book)
	r.Total = len(all)
	r.Destinations = all[:min(limit, len(all))]
	return r, nil
}

func (r *statusReport) write(out io.Writer) error {
	st := &r.Status
	if r.From == "primary" {
		fmt.Fprintln(out, "no process answers at admin.listen; these are the notes on the primary")
		fmt.Fprintf(out, "  asked there: %s\n", line(r.Why))
	} else {
		fmt.Fprintf(out, "%s, %s, version %s, since %s\n", st.State, st.Role, st.Version, st.StartedAt.Format(time.RFC3339))
	}
	fmt.Fprintln(out, monitor.InSyncWords(*st))
	for _, reason := range st.Reasons {
		fmt.Fprintf(out, "  %s: %s\n", line(reason.Severity), line(reason.Message))
	}
	fmt.Fprintf(out, "slot %s: %s\n", st.Slot.Name, strings.Join(monitor.SlotWords(st.Slot), ", "))
	if st.Role == "streaming" {
		fmt.Fprintf(out, "lag: %s\n", monitor.LagWords(st.Lag))
	}
	for _, sw := range st.Switches {
		if sw.Off && sw.Name != ledger.SwitchDestination {
			fmt.Fprintf(out, "switched off: %s\n", sw.Name)
		}
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nDESTINATION\tSTATE\tLAG\tBACKLOG\tROWS/S\tLAST SEQUENCE ID\tWHY")
	for _, d := range r.Destinations {
		fmt.Fprintln(w, strings.Join(monitor.Words(d), "\t"))
		for _, m := range d.Mappings {
			fmt.Fprintln(w, strings.Join(m.Words(), "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if n := len(r.Destinations); n < r.Total {
		fmt.Fprintf(out, "%d of %d, the worst first\n", n, r.Total)
	}
	return nil
}
