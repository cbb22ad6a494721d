package destination

import (
	"time"

	"outflow/internal/strictyaml"
	"outflow/sink/external"
)

// WorkOptions bound the work for each destination. The zero options are not valid. Sizes are in bytes.
type WorkOptions struct {
	QueueBytes strictyaml.ByteSize `yaml:"queue_bytes" default:"8MiB" range:"64KiB..64GiB"` // of each destination's queue
	BatchRows  int                 `yaml:"batch_rows" default:"10000" range:"1..1000000"`   // net changes in one round of statements
	external.Options
	RetryMin   time.Duration `yaml:"retry_min" default:"100ms" range:"1ms..1h"`       // first pause after a failure; the pause doubles, with jitter, up to RetryMax
	RetryMax   time.Duration `yaml:"retry_max" default:"5m" range:"1ms..24h"`         // longest pause
	VisitEvery time.Duration `yaml:"visit_every" default:"1h" range:"1s..168h"`       // after so long without a new connection, an external database without work is looked at
	OnError    OnError       `yaml:"on_error" default:"halt" oneof:"halt,quarantine"` // of a row's data
}

// OnError is what becomes of a destination with a row that the external database refuses.
type OnError string

// Halt halts the destination; Quarantine sets the row aside, and the rest goes on.
const (
	Halt       OnError = "halt"
	Quarantine OnError = "quarantine"
)

// Quarantines reports whether a refused row goes to the quarantine.
func (o *WorkOptions) Quarantines() bool { return o.OnError == Quarantine }

func (o *WorkOptions) queueBytes() int64 { return int64(o.QueueBytes) }
