package monitor

import (
	"math"
	"slices"
	"sync"
	"time"

	"outflow/replication"
	"outflow/replication/primary"
	"outflow/sink/destination"
	"outflow/sink/ledger"
)

// The sampler's measures. One sample is taken every SampleEvery.
const (
	SampleEvery = time.Second
	window      = 10  // samples under a rate
	PointsKept  = 300 // of the sparklines
	recentKept  = 50  // errors
)

// Rate is the speed of a destination over the last seconds.
type Rate struct {
	rows, copied *float64
}

// track is the sampler's memory of one destination.
type track struct {
	Rate
	n            int // samples so far
	rows, copied [window + 1]int64
	last         *Incident
	seen         uint64 // the last turn with the destination present
}

// Point is one second of the sparklines.
type Point struct {
	LagBytes, lagSeconds, Rows, transactions float64
}

// Incident is an error of a destination, with a count of repetitions.
type Incident struct {
	Tenant  string    `json:"tenant"`
	Name    string    `json:"name"`
	First   time.Time `json:"first_at"`
	Last    time.Time `json:"last_at"`
	Count   int       `json:"count"` // of seconds or attempts that ended with the error; 0 is not known
	State   string    `json:"state"`
	Failure Failure   `json:"error"`

	err error
}

// Sampler looks at all destinations once a second.
type Sampler struct {
	mu         sync.Mutex
	turn       uint64
	Ticked     time.Time
	times      [window + 1]time.Time
	rows       [window + 1]int64 // of all
	txns       [window + 1]int64
	n          int
	throughput Throughput
	tracks     map[*destination.Destination]*track
	points     []Point // oldest first
	recent     []*Incident
	buffer     []Row // the sampling goroutine's
}

// Reset forgets the samples of another pipeline. The sparklines and errors stay.
func (s *Sampler) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n, s.tracks, s.throughput = 0, map[*destination.Destination]*track{}, Throughput{}
}

// Sample takes one look. Nothing is locked while the destinations are asked, except one destination at a time.
func (s *Sampler) Sample(now time.Time, p *Pipeline) {
	if p == nil {
		s.mu.Lock()
		s.Ticked = now
		s.push(Point{})
		s.mu.Unlock()
		return
	}
	s.buffer = p.collect(s.buffer)
	lag := p.lag(now, s.buffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Ticked = now
	s.turn++
	at := s.turn % (window + 1)
	s.times[at] = now
	s.rows[at], s.txns[at] = 0, 0
	for i := range s.buffer {
		r := &s.buffer[i]
		s.rows[at] += r.Rows
		s.txns[at] += r.Transactions
		s.follow(now, at, r)
	}
	s.n = min(s.n+1, window+1)
	s.throughput = Throughput{Window: now.Sub(s.times[s.oldest(s.n)]).Seconds(), Rows: s.speed(&s.rows, s.n), Transactions: s.speed(&s.txns, s.n)}
	for d, t := range s.tracks {
		if t.seen != s.turn {
			delete(s.tracks, d)
		}
	}
	s.push(s.point(lag))
	clear(s.buffer) // so that removed destinations do not stay in memory
}

// follow notes one destination.
func (s *Sampler) follow(now time.Time, at uint64, r *Row) {
	t := s.tracks[r.Destination]
	if t == nil {
		t = &track{}
		s.tracks[r.Destination] = t
	}
	t.seen = s.turn
	t.rows[at], t.copied[at] = r.Rows, r.Copied
	t.n = min(t.n+1, window+1)
	t.Rate = Rate{rows: s.speed(&t.rows, t.n), copied: s.speed(&t.copied, t.n)}
	s.note(now, t, r)
}

// note keeps a new error, or counts a known one.
func (s *Sampler) note(now time.Time, t *track, r *Row) {
	if r.Err == nil || (t.last != nil && t.last.err == r.Err) { //nolint:errorlint // the same failure, not the same kind
		return
	}
	failure := failureOf(r.Err)
	if t.last != nil && t.last.Failure.sameAs(*failure) {
		t.last.Last, t.last.err, t.last.State, t.last.Failure = now.UTC(), r.Err, string(r.State), *failure
		t.last.Count++
		return
	}
	t.last = &Incident{Tenant: r.Tenant, Name: r.Name, First: now.UTC(), Last: now.UTC(), Count: 1, State: string(r.State), Failure: *failure, err: r.Err}
	if len(s.recent) == recentKept {
		s.recent = s.recent[1:]
	}
	s.recent = append(s.recent, t.last)
}

// oldest is the place of the oldest of n samples.
func (s *Sampler) oldest(n int) uint64 { return (s.turn - uint64(max(n, 1)-1)) % (window + 1) }

// speed is the gain per second over n samples; nil while too little is known.
func (s *Sampler) speed(ring *[window + 1]int64, n int) *float64 {
	from, to := s.oldest(n), s.turn%(window+1)
	seconds := s.times[to].Sub(s.times[from]).Seconds()
	if n < 2 || seconds <= 0 {
		return nil
	}
	speed := max(0, float64(ring[to]-ring[from])/seconds)
	return &speed
}

func (s *Sampler) point(l Lag) Point {
	value := func(v *float64) float64 {
		if v == nil {
			return 0
		}
		return *v
	}
	pt := Point{lagSeconds: value(l.Seconds), Rows: value(s.throughput.Rows), transactions: value(s.throughput.Transactions)}
	if l.Bytes != nil {
		pt.LagBytes = float64(*l.Bytes)
	}
	return pt
}

func (s *Sampler) push(p Point) {
	if len(s.points) == PointsKept {
		copy(s.points, s.points[1:])
		s.points = s.points[:PointsKept-1]
	}
	s.points = append(s.points, p)
}

// RateOf is the rate of one destination, empty where the rate is not known.
func (s *Sampler) RateOf(d *destination.Destination) Rate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tracks[d]; t != nil {
		return t.Rate
	}
	return Rate{}
}

func (s *Sampler) current() (Throughput, []Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.throughput, append([]Point(nil), s.points...)
}

// Incidents are the recent errors, the newest first.
func (s *Sampler) Incidents() []Incident {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Incident, 0, len(s.recent))
	for i := len(s.recent) - 1; i >= 0; i-- {
		all = append(all, *s.recent[i])
	}
	return all
}

// Alive reports whether the sampler ran lately: the sampler passes every lock of the router and of each destination.
func (s *Sampler) Alive(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.Ticked) < 30*SampleEvery
}

// lag is the distance of the streaming external databases behind the primary.
func (p *Pipeline) lag(now time.Time, all []Row) Lag {
	var l Lag
	slot, read, flush := primary.SlotStatus{}, p.Reader.Position(), p.Acks.Flush()
	if last := p.SlotStatus(); last != nil {
		slot = *last
	}
	streaming := p.Reader.State() == replication.Streaming
	if !streaming {
		flush, read = slot.ConfirmedFlush, 0
	}
	if end := max(slot.WALEnd, read); end != 0 {
		behind := int64(end) - int64(flush)
		behind = max(0, behind)
		l.Bytes = &behind
	}
	if d, at := p.Reader.Latency(); !at.IsZero() {
		seconds := d.Seconds()
		l.EndToEndSeconds, l.EndToEndAt = &seconds, knownTime(at)
	}
	if !streaming {
		return l
	}
	lags := make([]float64, 0, len(all))
	for i := range all {
		r := &all[i]
		behind, ok := r.Lag(now)
		if r.State != ledger.Streaming || !ok {
			continue
		}
		lags = append(lags, behind)
		if l.Worst == nil || behind > l.Worst.Seconds {
			l.Worst = &Laggard{Tenant: r.Tenant, Name: r.Name, Seconds: behind}
		}
	}
	if len(lags) > 0 {
		slices.Sort(lags)
		l.Seconds, l.P50Seconds, l.P99Seconds = &l.Worst.Seconds, quantile(lags, 0.5), quantile(lags, 0.99)
	}
	return l
}

// quantile is the smallest of the sorted values not exceeded by the given share of the values.
func quantile(sorted []float64, share float64) *float64 {
	return &sorted[int(math.Ceil(share*float64(len(sorted))))-1]
}
