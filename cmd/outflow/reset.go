package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/term"

	"outflow/internal/config"
	"outflow/replication"
	"outflow/sink"
)

// resetSlot drops the slot and creates the slot again. On a healthy slot resetSlot asks first: all destinations are copied again.
func resetSlot(c *cobra.Command, cfg *config.Config, yes bool, log *zap.Logger) error {
	ctx := c.Context()
	primary, err := primaryOf(cfg)
	if err != nil {
		return err
	}
	r := &resetting{cfg: cfg, primary: primary, log: log}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	defer hangUp(r.conn)
	if r.healthy && !yes {
		if err := confirm(c, fmt.Sprintf("Replication slot %q is healthy. Resetting it copies all %d destinations anew. Go on?",
			cfg.Source.Slot, len(r.targets))); err != nil {
			return err
		}
	}
	ids := sink.SequenceIDs(ctx, r.targets, sinkOptions(cfg.Sink))
	err = whileAnswering(ctx, primary, primaryPatience, func(ctx context.Context) error { return r.setup.Reset(ctx, r.conn, ids) })
	if err != nil {
		return err
	}
	log.Info("the slot was reset; every destination is copied anew", zap.String("slot", cfg.Source.Slot))
	return nil
}

// resetting is a reset of the slot.
type resetting struct {
	cfg     *config.Config
	primary *replication.Primary
	log     *zap.Logger

	conn    *pgx.Conn
	plan    *plan
	setup   replication.Setup
	targets []sink.Target
	healthy bool // the slot is
}

// prepare finds out about everything, and brings the schema outflow to this version. Without an error the connection is the caller's.
func (r *resetting) prepare(ctx context.Context) (err error) {
	if err := asked(ctx, r.primary, r.connect); err != nil {
		return err
	}
	err = whileAnswering(ctx, r.primary, primaryPatience, func(ctx context.Context) error { return migrate(ctx, r.primary) })
	if err == nil {
		err = asked(ctx, r.primary, r.look)
	}
	if err != nil {
		hangUp(r.conn)
	}
	return err
}

func (r *resetting) connect(ctx context.Context) (err error) {
	if r.conn, err = r.primary.Connect(ctx); err != nil {
		return replication.ExplainConnect(r.primary, err)
	}
	if r.plan, err = newPlan(ctx, r.conn, r.cfg, replication.Check); err != nil {
		hangUp(r.conn)
	}
	return err
}

func (r *resetting) look(ctx context.Context) (err error) {
	if r.targets, err = r.plan.destinations(ctx, r.conn); err != nil {
		return err
	}
	r.setup = r.plan.setup(r.primary, r.log)
	r.healthy, err = r.setup.Healthy(ctx, r.conn)
	return err
}

// confirm asks a person at a terminal. Without a terminal the answer must come as --yes.
func confirm(c *cobra.Command, question string) error {
	in, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usageError{fmt.Errorf("%s There is no terminal to answer at; say --yes", question)}
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return usageError{fmt.Errorf("nothing was done")}
	}
	return nil
}
