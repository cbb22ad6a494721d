package replication

import (
	"fmt"
	"testing"
	"time"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
)

// A heartbeat that has not come back tells how far the stream is behind; a heartbeat that has come back tells the latency.
func TestHeartbeatMeasuresTheStream(t *testing.T) {
	t.Parallel()
	server, err := primary.New(pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	h := &Heartbeat{Every: time.Second}
	behind := func() time.Duration { return h.Behind(h.last.Add(time.Minute)) }
	if _, at := h.Latency(); !at.IsZero() || h.Behind(time.Now()) != 0 {
		t.Error("there is a measurement before the first heartbeat")
	}
	var sent []Message
	for range 2 {
		if err := h.write(t.Context(), server); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, Message{Prefix: heartbeatPrefix, Content: fmt.Appendf(nil, "%s %d", h.process, h.last.UnixNano())})
	}
	if d := behind(); d < time.Minute {
		t.Errorf("two heartbeats are under way, and the stream is %s behind", d)
	}
	for _, other := range []Message{{Prefix: "other", Content: sent[1].Content}, {Prefix: heartbeatPrefix, Content: []byte("another 1")},
		{Prefix: heartbeatPrefix, Content: []byte(h.process + " x")}} {
		if h.seen(other); behind() < time.Minute {
			t.Errorf("%q was taken for a heartbeat", other.Content)
		}
	}
	h.seen(sent[0])
	if d, at := h.Latency(); d <= 0 || at.IsZero() || behind() == 0 {
		t.Errorf("after the first: latency %s at %s, %s behind", d, at, behind())
	}
	if h.seen(sent[1]); behind() != 0 {
		t.Errorf("all heartbeats have come back, and the stream is %s behind", behind())
	}
	var none *Heartbeat
	none.seen(sent[0])
	if d, _ := none.Latency(); d != 0 || none.Behind(time.Now()) != 0 {
		t.Error("nil measures")
	}
}
