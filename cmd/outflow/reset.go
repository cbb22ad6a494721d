package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

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
	primary, err := replication.NewPrimary(cfg.Source.DSN.Reveal())
	if err != nil {
		return usageError{fmt.Errorf("source.dsn: %w", err)}
	}
	conn, err := primary.Connect(ctx)
	if err != nil {
		return replication.ExplainConnect(primary, err)
	}
	defer conn.Close(ctx)
	p, err := newPlan(ctx, conn, cfg)
	if err != nil {
		return err
	}
	if err := migrate(ctx, primary); err != nil {
		return err
	}
	targets, err := p.destinations(ctx, conn, cfg)
	if err != nil {
		return err
	}
	s := slotSetup(primary, cfg, p, log)
	healthy, err := s.Healthy(ctx, conn)
	if err != nil {
		return err
	}
	if healthy && !yes {
		if err := confirm(c, fmt.Sprintf("Replication slot %q is healthy. Resetting it copies all %d destinations anew. Go on?",
			cfg.Source.Slot, len(targets))); err != nil {
			return err
		}
	}
	ids := sink.SequenceIDs(ctx, targets, sinkOptions(cfg.Sink))
	if err := s.Reset(ctx, conn, ids); err != nil {
		return err
	}
	log.Info("the slot was reset; every destination is copied anew", zap.String("slot", cfg.Source.Slot))
	return nil
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
