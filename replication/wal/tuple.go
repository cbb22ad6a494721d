package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
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

// ErrTruncated tells of a message shorter than its fields.
var ErrTruncated = errors.New("the message is truncated")

// DecodeTuple reads a row of the relation from the front of b, where the row has pgoutput's form (TupleData), and returns the size of that
// form in bytes. DecodeTuple checks the whole row. Where the relation has all columns sent by the server, the tuple refers to b's memory.
// Where the relation leaves columns out ([Relation.Partial]), the tuple owns its memory and b is overwritten: a row must not keep a
// megabyte that no code reads or counts.
func (r *Relation) DecodeTuple(b []byte) (t Tuple, size int, err error) {
	if len(b) < 2 {
		return Tuple{}, 0, ErrTruncated
	}
	sent := int(binary.BigEndian.Uint16(b))
	if r.skip != nil && len(r.skip) != sent {
		return Tuple{}, 0, fmt.Errorf("a row of %d columns, but the relation was sent with %d", sent, len(r.skip))
	}
	next, end := 2, 2
	for i := range sent {
		from := next
		if next, err = valueEnd(b, from, i); err != nil {
			return Tuple{}, 0, err
		}
		if r.skip != nil && r.skip[i] {
			continue
		}
		if end < from {
			copy(b[end:], b[from:next])
		}
		end += next - from
		t.columns++
		t.unchanged = t.unchanged || Presence(b[end-(next-from)]) == Unchanged
	}
	if t.Len() != len(r.Columns) {
		return Tuple{}, 0, fmt.Errorf("a row of %d columns, but the relation has %d", t.Len(), len(r.Columns))
	}
	if t.raw = b[2:end:end]; r.skip != nil {
		t.raw = bytes.Clone(t.raw)
	}
	return t, next, nil
}

// valueEnd checks the value at b[from:], which is column i, and returns where the value ends.
func valueEnd(b []byte, from, i int) (int, error) {
	if from >= len(b) {
		return 0, ErrTruncated
	}
	switch kind := Presence(b[from]); kind {
	case Null, Unchanged:
		return from + 1, nil
	case Text:
		if len(b)-from < 5 {
			return 0, ErrTruncated
		}
		size := binary.BigEndian.Uint32(b[from+1:])
		if size > math.MaxInt32 {
			return 0, fmt.Errorf("column %d has the impossible size %d", i, size)
		}
		if int(size) > len(b)-from-5 {
			return 0, ErrTruncated
		}
		return from + 5 + int(size), nil
	default:
		return 0, fmt.Errorf("column %d is of kind %q, but only text was requested", i, byte(kind))
	}
}
