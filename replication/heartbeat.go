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
)

// heartbeatPrefix marks our logical messages; others' are passed over.
const heartbeatPrefix = "outflow.heartbeat"

// Heartbeat measures how long a commit on the primary takes to come through the stream: Heartbeat writes a logical message there now and
// then, and the reader reports the message's arrival. Both times are of the process' own clock. The zero value is ready; nil is off. Safe
// for concurrent use.
type Heartbeat struct {
	mu      sync.Mutex
	process string // tells our messages from messages of an earlier or other process; "" before the first
	latency time.Duration
	at      time.Time
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

// emit writes a heartbeat, as a transaction: Latency measures the way of a commit.
func (h *Heartbeat) emit(ctx context.Context, db *pgx.Conn) error {
	h.mu.Lock()
	if h.process == "" {
		h.process = rand.Text()
	}
	content := fmt.Sprintf("%s %d", h.process, time.Now().UnixNano())
	h.mu.Unlock()
	_, err := db.Exec(ctx, `SELECT pg_logical_emit_message(true, $1, $2)`, heartbeatPrefix, content)
	return err
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
	h.latency, h.at = now.Sub(time.Unix(0, sent)), now
}
