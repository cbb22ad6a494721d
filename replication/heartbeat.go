package replication

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"outflow/internal/pgerror"
	"outflow/replication/primary"
)

// heartbeatPrefix is the prefix of Outflow's logical messages; messages of other programs are passed over.
const heartbeatPrefix = "outflow.heartbeat"

// Heartbeat measures how long a commit on the primary takes to come through the stream: Heartbeat writes a logical message there now and
// then, and the reader reports the message's arrival. Both times are of the process' own clock. nil is off. Safe for concurrent use.
type Heartbeat struct {
	Every time.Duration // between heartbeats, more than 0

	mu      sync.Mutex
	process string // tells messages of this process from messages of an earlier or other process; "" before the first
	latency time.Duration
	at      time.Time

	last, seenLast time.Time // the newest heartbeat written, and the newest seen
	waiting        time.Time // the oldest heartbeat written and not seen, or the one before; zero is none
}

// Latency is the duration of the newest returned heartbeat, and the time of the return; a zero time means no heartbeat
// has come back.
func (h *Heartbeat) Latency() (time.Duration, time.Time) {
	if h == nil {
		return 0, time.Time{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latency, h.at
}

// Behind is the age of the oldest heartbeat that was written and has not come back, at most one heartbeat more; 0 where all have come
// back. The stream is at least as far behind the primary, whatever keeps the stream: a reading switched off, queues without room, a large
// transaction that the primary decodes.
func (h *Heartbeat) Behind(now time.Time) time.Duration {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting.IsZero() {
		return 0
	}
	return max(0, now.Sub(h.waiting))
}

// heartbeatPatience bounds the writing of a heartbeat.
const heartbeatPatience = 5 * time.Second

// Heartbeats writes heartbeats while the reader streams, until ctx is done, which is not an error. Without a [Heartbeat], and where the role may
// not write logical messages, Heartbeats returns nil at once: heartbeats are a measurement, and the stream does not need them.
func (r *Reader) Heartbeats(ctx context.Context) error {
	if r.Heartbeat == nil {
		return nil
	}
	tick := time.NewTicker(r.Heartbeat.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if r.State() != Streaming {
			continue
		}
		if err := r.Heartbeat.write(ctx, r.Slot.Server); pgerror.SQLState(err) == pgerror.InsufficientRights {
			r.Log.Warn("no heartbeats: the role may not write logical messages, so the latency of the stream is not measured",
				zap.Error(err))
			return nil
		}
	}
}

// write writes a heartbeat on a connection of its own.
func (h *Heartbeat) write(ctx context.Context, server *primary.Server) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatPatience)
	defer cancel()
	conn, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return h.emit(ctx, conn)
}

// emit writes a heartbeat, as a transaction: Latency measures the way of a commit.
func (h *Heartbeat) emit(ctx context.Context, db *pgx.Conn) error {
	h.mu.Lock()
	if h.process == "" {
		h.process = rand.Text()
	}
	now := time.Now()
	content := fmt.Sprintf("%s %d", h.process, now.UnixNano())
	h.mu.Unlock()
	if _, err := db.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, $2)`, heartbeatPrefix, content); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = now
	if h.waiting.IsZero() && h.seenLast.Before(now) { // else the message has come back already
		h.waiting = now
	}
	return nil
}

// seen takes a message of the stream.
func (h *Heartbeat) seen(m Message) {
	if h == nil || m.Prefix != heartbeatPrefix {
		return
	}
	process, text, _ := strings.Cut(string(m.Content), " ")
	sent, err := strconv.ParseInt(text, 10, 64)
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || process != h.process {
		return
	}
	h.seenLast = time.Unix(0, sent)
	h.latency, h.at = now.Sub(h.seenLast), now
	h.waiting = time.Time{}
	if h.seenLast.Before(h.last) {
		h.waiting = h.seenLast
	}
}
