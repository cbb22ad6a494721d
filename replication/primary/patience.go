package primary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Patience bounds all questions to the primary whose answers take moments.
const Patience = time.Minute

// HangUp ends a connection, also where the server does not answer.
func HangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// Silence tells of a primary that answers no question any more.
type Silence struct {
	address string
	silence time.Duration
}

func (e *Silence) Error() string {
	return fmt.Sprintf("the primary at %s has not answered within %s", e.address, e.silence)
}

// Ask runs f, whose questions to the primary take moments, and ends f after Patience.
func Ask(ctx context.Context, server *Server, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	err := f(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &Silence{server.Address(), Patience}
	}
	return err
}

// WhileAnswering runs f, and ends f where the primary answers nothing for the patience. Statements of f may wait for locks and for older
// transactions, and so have no limit of their own: another connection asks whether the primary answers at all.
func WhileAnswering(ctx context.Context, server *Server, patience time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)
	asking.Go(func() {
		if awaitSilence(ctx, server, patience) {
			cancel(&Silence{server.Address(), patience})
		}
	})
	err := f(ctx)
	if silent := (*Silence)(nil); err != nil && errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return err
}

// awaitSilence returns true when the primary has answered nothing for the patience, false when ctx is done.
func awaitSilence(ctx context.Context, server *Server, patience time.Duration) bool {
	tick := time.NewTicker(patience / 6)
	defer tick.Stop()
	for answered := time.Now(); ; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if answers(ctx, server, patience/6) {
			answered = time.Now()
		} else if time.Since(answered) >= patience {
			return ctx.Err() == nil
		}
	}
}

// answers reports whether the primary answers; a refusal is an answer.
func answers(ctx context.Context, server *Server, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := server.Connect(ctx)
	refusal := (*pgconn.PgError)(nil)
	if err == nil {
		defer HangUp(conn)
		_, err = conn.Exec(ctx, "SELECT 1")
	}
	return err == nil || errors.As(err, &refusal)
}
