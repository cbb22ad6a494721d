package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"outflow/replication/wal"
)

// Decoder turns pgoutput's messages (protocol 1) into events. A Decoder does no I/O; it remembers the relations
// described so far, and the open transaction.
//
// The decoder is written out here, and not taken from pglogrepl, because the decoder of pglogrepl indexes past the end
// of truncated messages and makes about three allocations a column instead of a single allocation a change; a test
// compares the two on a real stream.
type Decoder struct {
	relations map[uint32]*wal.Relation
	open      bool
	commit    wal.LSN
	ordinal   uint32
	changes   [1]wal.Change // scratch for the single change of a row message
}

// NewDecoder returns a decoder for a fresh session.
func NewDecoder() *Decoder { return &Decoder{relations: map[uint32]*wal.Relation{}} }

// Event is the meaning of a message: Begin, Commit, *Relation, Changes, Message or nil (a message of no interest).
type Event any

// Begin opens a transaction. pgoutput sends only committed ones, so the commit LSN is known already.
type Begin struct {
	CommitLSN  wal.LSN
	CommitTime time.Time
	XID        uint32
}

// Commit closes a transaction. EndLSN is the position to acknowledge: the byte after the commit record.
type Commit struct {
	CommitLSN, EndLSN wal.LSN
}

// Changes are the changes of a message: a single row, or the tables of one TRUNCATE. The slice is valid until the next
// call of Decode; the changes in it own their memory.
type Changes []wal.Change

// Message is a logical message written with pg_logical_emit_message. Content owns its memory.
type Message struct {
	Prefix  string
	Content []byte
}

// Decode reads one pgoutput message. Decode may overwrite msg, and so may the caller afterwards. After an error the stream can no longer be
// understood; nothing may be acknowledged past the message.
func (d *Decoder) Decode(msg []byte) (Event, error) {
	if len(msg) == 0 {
		return nil, errors.New("pgoutput: an empty message")
	}
	event, err := d.decode(msg[0], msg[1:])
	if err != nil {
		return nil, fmt.Errorf("pgoutput: message %q: %w", msg[0], err)
	}
	return event, nil
}

func (d *Decoder) decode(kind byte, body []byte) (Event, error) {
	r := &wire{b: body}
	switch kind {
	case 'B':
		return d.begin(r)
	case 'C':
		return d.end(r)
	case 'R':
		return d.relation(r)
	case 'I', 'U', 'D':
		return d.row(wal.Kind(kind), r)
	case 'T':
		return d.truncate(r)
	case 'M':
		return d.message(r)
	case 'Y', 'O': // types are resolved by oid, origins do not matter
		return nil, nil
	}
	return nil, errors.New("not a message of protocol 1")
}

func (d *Decoder) begin(r *wire) (Event, error) {
	b := Begin{CommitLSN: wal.LSN(r.uint64()), CommitTime: r.time(), XID: r.uint32()}
	if r.short {
		return nil, wal.ErrTruncated
	}
	if d.open {
		return nil, errors.New("a transaction begins inside another one")
	}
	d.open, d.commit, d.ordinal = true, b.CommitLSN, 0
	return b, nil
}

func (d *Decoder) end(r *wire) (Event, error) {
	r.byte() // flags, unused
	c := Commit{CommitLSN: wal.LSN(r.uint64()), EndLSN: wal.LSN(r.uint64())}
	r.time()
	if r.short {
		return nil, wal.ErrTruncated
	}
	if !d.open || c.CommitLSN != d.commit {
		return nil, fmt.Errorf("the commit at %s does not close an open transaction", c.CommitLSN)
	}
	d.open = false
	return c, nil
}

func (d *Decoder) relation(r *wire) (Event, error) {
	rel := &wal.Relation{OID: r.uint32(), Schema: r.string(), Name: r.string(), Identity: r.byte()}
	n := int(r.uint16())
	if r.short {
		return nil, wal.ErrTruncated
	}
	if rel.Schema == "" {
		rel.Schema = "pg_catalog" // pgoutput's abbreviation (logicalrep_write_namespace)
	}
	for i := range n {
		c := wal.Column{Identity: r.byte()&1 != 0, Name: r.string(), TypeOID: r.uint32(), TypeMod: int32(r.uint32())}
		if r.short {
			return nil, wal.ErrTruncated
		}
		rel.Columns = append(rel.Columns, c)
		if c.Identity {
			rel.Key = append(rel.Key, i)
		}
	}
	d.relations[rel.OID] = rel
	return rel, nil
}

// row decodes an insert, update or delete. row reads old and new tuples in the order of the protocol: 'K' or 'O' before 'N'.
func (d *Decoder) row(kind wal.Kind, r *wire) (Event, error) {
	rel, err := d.known(r.uint32())
	if err != nil {
		return nil, err
	}
	if !rel.Partial() {
		r.b = bytes.Clone(r.b) // one copy for the whole row: r.b is the connection's read buffer
	}
	c := wal.Change{Kind: kind, Relation: rel, Ordinal: d.ordinal}
	tag := r.byte()
	complete := tag == 'O' // REPLICA IDENTITY FULL: the whole old row
	if kind != wal.Insert && (tag == 'K' || tag == 'O') {
		if c.Old, err = d.tuple(rel, r); err != nil {
			return nil, err
		}
		if kind == wal.Update {
			tag = r.byte()
		}
	}
	if kind != wal.Delete && tag == 'N' {
		if c.New, err = d.tuple(rel, r); err != nil {
			return nil, err
		}
	}
	if r.short {
		return nil, wal.ErrTruncated
	}
	if (kind != wal.Delete && c.New.IsZero()) || (kind == wal.Delete && c.Old.IsZero()) {
		return nil, fmt.Errorf("%s of %s has no row (%q)", kind, rel, tag)
	}
	if complete {
		c.New = c.New.Fill(c.Old)
	}
	d.ordinal++
	d.changes[0] = c
	return Changes(d.changes[:]), nil
}

func (d *Decoder) tuple(rel *wal.Relation, r *wire) (wal.Tuple, error) {
	t, size, err := rel.DecodeTuple(r.b[r.off:])
	if err != nil {
		return wal.Tuple{}, fmt.Errorf("%s: %w", rel, err)
	}
	r.skip(size)
	return t, nil
}

func (d *Decoder) truncate(r *wire) (Event, error) {
	n := int(r.uint32())
	r.byte() // CASCADE, RESTART IDENTITY: the cascaded tables are listed too
	if r.short || n > len(r.b)/4 {
		return nil, wal.ErrTruncated
	}
	changes := make(Changes, 0, n)
	for range n {
		rel, err := d.known(r.uint32())
		if err != nil {
			return nil, err
		}
		changes = append(changes, wal.Change{Kind: wal.Truncate, Relation: rel, Ordinal: d.ordinal})
		d.ordinal++
	}
	return changes, nil
}

func (d *Decoder) message(r *wire) (Event, error) {
	r.byte() // flags: whether the message is transactional
	r.uint64()
	m := Message{Prefix: r.string()}
	m.Content = bytes.Clone(r.take(int(int32(r.uint32()))))
	if r.short {
		return nil, wal.ErrTruncated
	}
	return m, nil
}

func (d *Decoder) known(oid uint32) (*wal.Relation, error) {
	if !d.open {
		return nil, errors.New("a change outside a transaction")
	}
	rel, ok := d.relations[oid]
	if !ok {
		return nil, fmt.Errorf("a change of relation %d, which was never described", oid)
	}
	return rel, nil
}

// wire reads big-endian fields. Past the end wire sets short and gives zeros, so a message's fields can be read in a
// single expression and checked once.
type wire struct {
	b     []byte
	off   int
	short bool
}

func (w *wire) take(n int) []byte {
	if n < 0 || n > len(w.b)-w.off {
		w.short, w.off = true, len(w.b)
		return nil
	}
	w.off += n
	return w.b[w.off-n : w.off]
}

func (w *wire) skip(n int) { w.take(n) }

func (w *wire) byte() byte {
	if b := w.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (w *wire) uint16() uint16 {
	if b := w.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (w *wire) uint32() uint32 {
	if b := w.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (w *wire) uint64() uint64 {
	if b := w.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (w *wire) string() string {
	end := bytes.IndexByte(w.b[w.off:], 0)
	if end < 0 {
		w.short, w.off = true, len(w.b)
		return ""
	}
	s := string(w.b[w.off : w.off+end])
	w.off += end + 1
	return s
}

// time reads microseconds since 2000-01-01 UTC.
func (w *wire) time() time.Time {
	const y2k = 946684800 * int64(time.Second/time.Microsecond)
	return time.UnixMicro(y2k + int64(w.uint64())).UTC()
}
