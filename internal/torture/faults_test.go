package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// allLanes are the faults of a run.
func allLanes() []lane {
	return []lane{
		{"process", span{500 * time.Millisecond, 4 * time.Second}, processFaults},
		{"primary", span{1500 * time.Millisecond, 6 * time.Second}, primaryFaults},
		{"east", span{time.Second, 5 * time.Second}, targetFaults(func(w *world) *targetServer { return w.east })},
		{"west", span{time.Second, 5 * time.Second}, targetFaults(func(w *world) *targetServer { return w.west })},
		{"wire", span{500 * time.Millisecond, 3 * time.Second}, wireFaults},
		{"operator", span{500 * time.Millisecond, 3 * time.Second}, operatorFaults},
	}
}

const (
	beginsWithin = 20 * time.Second
	healsWithin  = 60 * time.Second
)

// playAll plays the lanes of a schedule side by side, and returns when all faults are healed. The end of the context skips the rest.
func (w *world) playAll(ctx context.Context, steps []step) {
	lanes := map[string][]step{}
	for _, s := range steps {
		lanes[s.lane] = append(lanes[s.lane], s)
	}
	var playing sync.WaitGroup
	for _, lane := range lanes {
		playing.Go(func() {
			for _, s := range lane {
				if !pause(ctx, s.at-w.since()) {
					return
				}
				w.play(ctx, s)
			}
		})
	}
	playing.Wait()
}

// play brings a fault about, and heals the fault whatever happens.
func (w *world) play(ctx context.Context, s step) {
	r := rand.New(rand.NewPCG(s.draw, s.draw))
	begin, cancel := context.WithTimeout(context.WithoutCancel(ctx), beginsWithin)
	heal, err := s.fault.begin(begin, w, r)
	cancel()
	w.tally.fault(s.fault.name, err)
	if err != nil {
		w.say("%s: %s is refused: %s", s.lane, s.fault.name, oneLine(err))
	} else {
		w.say("%s: %s", s.lane, s.fault.name)
	}
	if heal == nil {
		return
	}
	pause(ctx, s.lasts)
	w.heal(s, heal)
}

func (w *world) heal(s step, heal heal) {
	for deadline := time.Now().Add(healsWithin); ; {
		ctx, cancel := context.WithTimeout(context.Background(), beginsWithin)
		err := heal(ctx)
		cancel()
		if err == nil {
			w.say("%s: %s is healed", s.lane, s.fault.name)
			return
		}
		if time.Now().After(deadline) {
			w.fail("%s: %s cannot be healed: %v", s.lane, s.fault.name, err)
			return
		}
		pause(context.Background(), 300*time.Millisecond)
	}
}

func oneLine(err error) string { return strings.ReplaceAll(fmt.Sprintf("%.300s", err), "\n", "; ") }

// seconds is a span in seconds.
func seconds(from, to float64) span {
	return span{time.Duration(from * float64(time.Second)), time.Duration(to * float64(time.Second))}
}
