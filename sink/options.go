package sink

import (
	"fmt"
	"time"

	"outflow/internal/strictyaml"
	"outflow/sink/destination"
	"outflow/sink/judge"
)

// Options bound the resources of the sink. [DefaultOptions] gives the defaults; the zero Options are not valid. Sizes are in bytes.
type Options struct {
	destination.WorkOptions
	MemoryBytes     strictyaml.ByteSize `yaml:"memory_bytes" default:"512MiB" range:"1MiB..1024GiB"` // of all destinations together: queues, look-ups and copies; see queuesBytes
	ShutdownTimeout time.Duration       `yaml:"shutdown_timeout" default:"10s" range:"1ms..1h"`      // time for a batch in flight when the process stops
	judge.Limits
	Checkpoint time.Duration `yaml:"checkpoint" default:"2s" range:"10ms..1m"` // between checkpoints on the primary, before which nothing is acknowledged
	Backfills  int           `yaml:"backfills" default:"2" range:"1..1000"`    // destinations that copy rows from the primary at the same time
}

// DefaultOptions are the options of an empty configuration.
func DefaultOptions() Options {
	var o Options
	strictyaml.Defaults(&o)
	return o
}

// Validate gives the options that cannot be meant, in the order of the fields; nil where all can.
func (o *Options) Validate() []strictyaml.Invalid {
	faults := strictyaml.Check(o)
	if o.MemoryBytes < o.QueueBytes {
		faults = append(faults, strictyaml.Invalid{Key: "memory_bytes", Message: fmt.Sprintf("expected at least queue_bytes, which is %s", o.QueueBytes)})
	}
	if o.RetryMax < o.RetryMin {
		faults = append(faults, strictyaml.Invalid{Key: "retry_max", Message: "expected at least retry_min, which is " + strictyaml.Plain(o.RetryMin)})
	}
	return faults
}

// The memory of sink.memory_bytes has three parts: the queues (see [queue.Gate]), the values that look-ups fetch for the queues' changes, and the
// rows that copies read. A destination takes memory from the latter two before the destination reads, and the primary measures the rows: see
// [tableread.Look] and [tableread.Range].
//
// No goroutine may wait for memory that only the same goroutine can free. So the parts are apart, and wait in one direction:
//
//   - A holder of look-ups' memory waits for nothing but a connection of the look-ups, and one server's answer, both bounded in time. In
//     particular the holder takes no memory a second time, and does not wait for changes from the stream.
//   - The queues are emptied by workers, which may wait for memory of look-ups.
//   - A holder of copies' memory waits for the stream, and so for the queues, until the chunk is merged or given up.
func (o *Options) lookupBytes() int64 { return int64(o.MemoryBytes) / 4 }
func (o *Options) copyBytes() int64   { return int64(o.MemoryBytes) / 8 }
func (o *Options) queuesBytes() int64 { return int64(o.MemoryBytes) - o.lookupBytes() - o.copyBytes() }
