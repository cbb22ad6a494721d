package replication

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

// Presence says how a column's value travels in a tuple. The bytes are pgoutput's (the Postgres manual, "Logical
// Replication Message Formats", TupleData).
type Presence byte

// The kinds of a column's value in a tuple.
const (
	Null      Presence = 'n'
	Unchanged Presence = 'u' // a TOASTed value not touched by an UPDATE and not sent by the server
	Text      Presence = 't' // the value in the text form of the type's output function
)

// Value is a column of a tuple. The zero Value is not valid; NULL is Value{Presence: Null}.
type Value struct {
	Presence Presence
	Text     []byte // valid for Text only; refers to the tuple's memory and must not be written to
}

// Tuple is a row in pgoutput's own encoding, checked at decoding. The zero Tuple is "no row". Values are found by
// walking, which is cheap for rows of usual width and needs an allocation a row instead of an allocation a column.
type Tuple struct {
	raw       []byte // the columns without pgoutput's leading count
	columns   uint16
	unchanged bool
}

// IsZero reports whether there is no row.
func (t Tuple) IsZero() bool { return t.raw == nil }

// Len is the number of columns.
func (t Tuple) Len() int { return int(t.columns) }

// HasUnchanged reports whether any column is [Unchanged].
func (t Tuple) HasUnchanged() bool { return t.unchanged }

// Bytes is the size of the row, in bytes.
func (t Tuple) Bytes() int { return len(t.raw) }

// Value returns column i. Value panics where i is out of range, like a slice.
func (t Tuple) Value(i int) Value {
	if i < 0 || i >= int(t.columns) {
		panic(fmt.Sprintf("column %d of a tuple of %d", i, t.columns))
	}
	rest := t.raw
	for ; i > 0; i-- {
		_, rest = nextValue(rest)
	}
	v, _ := nextValue(rest)
	return v
}

// Values appends all columns to dst and returns the result.
func (t Tuple) Values(dst []Value) []Value {
	rest := t.raw
	for range t.columns {
		var v Value
		v, rest = nextValue(rest)
		dst = append(dst, v)
	}
	return dst
}

func nextValue(b []byte) (Value, []byte) {
	p := Presence(b[0])
	if p != Text {
		return Value{Presence: p}, b[1:]
	}
	end := 5 + int(binary.BigEndian.Uint32(b[1:5]))
	return Value{Presence: Text, Text: b[5:end:end]}, b[end:]
}

// NewTuple makes a tuple of values, copying the values.
func NewTuple(values []Value) Tuple {
	size := len(values)
	for _, v := range values {
		if v.Presence == Text {
			size += 4 + len(v.Text)
		}
	}
	t := Tuple{raw: make([]byte, 0, size), columns: uint16(len(values))}
	for _, v := range values {
		t.raw = append(t.raw, byte(v.Presence))
		switch v.Presence {
		case Text:
			t.raw = binary.BigEndian.AppendUint32(t.raw, uint32(len(v.Text)))
			t.raw = append(t.raw, v.Text...)
		case Unchanged:
			t.unchanged = true
		}
	}
	return t
}

// Fill returns t with its Unchanged columns taken from the row before. Columns Unchanged or NULL in from stay Unchanged in t: a TOASTed
// value is not NULL, so a NULL means the row before is not known whole.
func (t Tuple) Fill(from Tuple) Tuple {
	return t.fill(from, func(v Value) bool { return v.Presence == Text })
}

// Complete returns t with its Unchanged columns taken from a row known whole.
func (t Tuple) Complete(from Tuple) Tuple {
	return t.fill(from, func(Value) bool { return true })
}

func (t Tuple) fill(from Tuple, takes func(Value) bool) Tuple {
	if !t.unchanged || from.columns != t.columns {
		return t
	}
	values := t.Values(make([]Value, 0, t.columns))
	before := from.Values(make([]Value, 0, from.columns))
	for i := range values {
		if values[i].Presence == Unchanged && takes(before[i]) {
			values[i] = before[i]
		}
	}
	return NewTuple(values)
}

// decodeTuple reads a TupleData from r, advances r, and checks the whole TupleData. With a nil skip the tuple refers to r's memory. Else the
// columns named by skip are left out, and the tuple owns its memory: a row must not keep a megabyte that nobody reads, and that nobody
// counts. r's memory is then overwritten.
func decodeTuple(r *wire, skip []bool) (Tuple, error) {
	n := int(r.uint16())
	if skip != nil && len(skip) != n {
		return Tuple{}, fmt.Errorf("a row of %d columns where the relation was sent with %d", n, len(skip))
	}
	start := r.off
	end := start
	var t Tuple
	for i := range n {
		from := r.off
		switch kind := Presence(r.byte()); kind {
		case Null:
		case Unchanged:
			t.unchanged = t.unchanged || skip == nil || !skip[i]
		case Text:
			if size := r.uint32(); size > math.MaxInt32 {
				return Tuple{}, fmt.Errorf("column %d has the impossible size %d", i, size)
			} else {
				r.skip(int(size))
			}
		default:
			if r.short {
				return Tuple{}, errShort
			}
			return Tuple{}, fmt.Errorf("column %d is of kind %q, and only text was asked for", i, byte(kind))
		}
		if r.short {
			return Tuple{}, errShort
		}
		if skip == nil || !skip[i] {
			if end < from {
				copy(r.b[end:], r.b[from:r.off])
			}
			end += r.off - from
			t.columns++
		}
	}
	if r.short {
		return Tuple{}, errShort
	}
	if t.raw = r.b[start:end:end]; skip != nil {
		t.raw = bytes.Clone(t.raw)
	}
	return t, nil
}
