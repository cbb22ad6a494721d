package torture

import (
	"context"
	"math/rand/v2"
	"time"

	"outflow/internal/faultproxy"
)

// wireFaults are the faults between outflow and a server: the primary's, or a destination's.
var wireFaults = []fault{
	{"reset", 4, seconds(0, 0.5), onWire(func(p *faultproxy.Proxy, _ *rand.Rand) func() { p.Cut(); return nil })},
	{"refuse", 2, seconds(0.5, 3), onWire(func(p *faultproxy.Proxy, _ *rand.Rand) func() {
		p.Refuse(true)
		p.Cut()
		return func() { p.Refuse(false) }
	})},
	{"half-open", 3, seconds(1, 8), onWire(func(p *faultproxy.Proxy, _ *rand.Rand) func() {
		p.Stall(true)
		return func() { p.Stall(false) }
	})},
	{"half-open, then reset", 2, seconds(1, 5), onWire(func(p *faultproxy.Proxy, _ *rand.Rand) func() {
		p.Stall(true)
		return func() {
			p.Cut()
			p.Stall(false)
		}
	})},
	{"latency", 3, seconds(1, 5), onWire(func(p *faultproxy.Proxy, r *rand.Rand) func() {
		p.Delay(time.Duration(5+r.IntN(150)) * time.Millisecond)
		return func() { p.Delay(0) }
	})},
	{"bandwidth", 2, seconds(1, 5), onWire(func(p *faultproxy.Proxy, r *rand.Rand) func() {
		p.Bandwidth(20_000 + r.IntN(200_000))
		return func() { p.Bandwidth(0) }
	})},
	{"slices", 2, seconds(1, 4), onWire(func(p *faultproxy.Proxy, r *rand.Rand) func() {
		p.Slice(1 + r.IntN(64))
		return func() { p.Slice(0) }
	})},
	{"cut after some bytes", 3, seconds(1, 4), onWire(func(p *faultproxy.Proxy, r *rand.Rand) func() {
		p.CutAfterBytes(2_000 << r.IntN(8))
		return func() { p.CutAfterBytes(0) }
	})},
	{"cut behind COMMIT", 4, seconds(1, 4), onWire(func(p *faultproxy.Proxy, _ *rand.Rand) func() {
		p.CutAfterQuery("outflow_commit")
		return func() { p.CutAfterQuery("") }
	})},
	{"cut behind the checkpoint", 2, seconds(1, 4), onWire(func(p *faultproxy.Proxy, _ *rand.Rand) func() {
		p.CutAfterQuery("outflow.destination_state")
		return func() { p.CutAfterQuery("") }
	})},
	{"pooler killed", 2, seconds(0.1, 3), killPooler},
}

// onWire makes a fault of a proxy's doing, which the returned function undoes; nil is nothing to undo.
func onWire(do func(*faultproxy.Proxy, *rand.Rand) (undo func())) func(context.Context, *world, *rand.Rand) (heal, error) {
	return func(_ context.Context, w *world, r *rand.Rand) (heal, error) {
		wire, name := w.wire, "primary"
		if n := r.IntN(2 * len(w.destinations)); n < len(w.destinations) {
			wire, name = w.destinations[n].wire, w.destinations[n].database
		}
		w.say("wire: of %s", name)
		undo := do(wire, r)
		if undo == nil {
			return nil, nil
		}
		return func(context.Context) error {
			undo()
			return nil
		}, nil
	}
}
