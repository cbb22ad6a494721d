package mapping

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"outflow/replication/wal"
)

// Rows are the net changes of one table in one batch: at most one row a key, all of one relation. Fill Upserts and Deletes, then ask
// statements for parameters; arrays are encoded once and shared by the statements.
type Rows struct {
	Relation *wal.Relation
	Upserts  []Row
	Deletes  []Row
	New      bool // every row was inserted on the source by these changes; there are no deletes

	encoded map[encodedKey][]byte
}

// Row is a net change: the present row, or the known values of a deleted row.
type Row struct {
	Tuple       wal.Tuple
	SequenceID  int64
	CommittedAt time.Time
}

// encodedKey names an array that several statements share: the same column over the same rows.
type encodedKey struct {
	when   When
	column parameterColumn
}

// Len is how many rows a step with the given when sees.
func (r *Rows) Len(when When) int {
	switch when {
	case Upsert:
		return len(r.Upserts)
	case Delete:
		return len(r.Deletes)
	default:
		return len(r.Upserts) + len(r.Deletes)
	}
}

// textArrayOID is the type of every parameter: text[].
const textArrayOID = 1009

// Parameters are the values of the statement's parameters for the rows, each a text[] in the binary format. The binary format of an array
// of text needs no quoting; the elements are still text, read by the types' input functions.
//
// Parameters fails where a column is still unchanged TOAST: the value must be filled in before, never sent as NULL.
func (st *Statement) Parameters(r *Rows) ([][]byte, error) {
	params := make([][]byte, len(st.columns))
	var missing []parameterColumn
	for i, c := range st.columns {
		if b, ok := r.encoded[encodedKey{st.When, c}]; ok {
			params[i] = b
		} else {
			missing = append(missing, c)
		}
	}
	if len(missing) == 0 {
		return params, nil
	}
	if r.encoded == nil {
		r.encoded = map[encodedKey][]byte{}
	}
	arrays, err := r.encode(st.When, missing)
	if err != nil {
		return nil, err
	}
	for i, array := range arrays {
		r.encoded[encodedKey{st.When, missing[i]}] = array.bytes()
	}
	return st.Parameters(r)
}

// encode walks the rows once for all the columns.
func (r *Rows) encode(when When, columns []parameterColumn) ([]textArray, error) {
	e := encoder{rows: r, columns: columns, arrays: make([]textArray, len(columns)), total: r.Len(when)}
	var err error
	if when != Delete {
		err = e.add(r.Upserts, Upsert)
	}
	if when != Upsert && err == nil {
		err = e.add(r.Deletes, Delete)
	}
	return e.arrays, err
}

// encoder fills one array per column in one pass over the rows. values and scratch are reused from row to row: the arrays hold copies.
type encoder struct {
	rows    *Rows
	columns []parameterColumn
	arrays  []textArray
	total   int
	values  []wal.Value
	scratch []byte
}

// add appends the rows to every array. An unchanged TOAST value fails: NULL in its place would erase the value in the external database.
func (e *encoder) add(rows []Row, op When) error {
	for i := range rows {
		e.values = rows[i].Tuple.Values(e.values[:0])
		for c, column := range e.columns {
			a := &e.arrays[c]
			a.grow(e.total)
			if column.index < 0 {
				a.append(e.special(column.special, &rows[i], op))
				continue
			}
			switch v := e.values[column.index]; v.Presence {
			case wal.Text:
				a.append(v.Text)
			case wal.Unchanged:
				return fmt.Errorf("column %q of %s was not fetched", e.rows.Relation.Columns[column.index].Name, e.rows.Relation)
			default:
				a.appendNull()
			}
		}
	}
	return nil
}

// special is the text of a column that Outflow adds. The result is valid until the next call. Times are in UTC with microseconds, the resolution
// of timestamptz, whatever the TimeZone of the external session.
func (e *encoder) special(name string, row *Row, op When) []byte {
	switch name {
	case sequenceColumn:
		e.scratch = strconv.AppendInt(e.scratch[:0], row.SequenceID, 10)
	case committedColumn:
		e.scratch = row.CommittedAt.UTC().AppendFormat(e.scratch[:0], "2006-01-02 15:04:05.999999Z07:00")
	default:
		e.scratch = append(e.scratch[:0], op...)
	}
	return e.scratch
}

// textArray builds a one-dimensional text[] in the binary format (array_recv and textrecv in the server's sources).
type textArray struct {
	b     []byte
	n     int32
	nulls bool
}

const (
	arrayHeader = 20 // dimensions, has nulls, element type, length, lower bound
	textOID     = 25
)

// grow reserves room for all rows: at first a guess, later from the size of the rows so far.
func (a *textArray) grow(total int) {
	switch {
	case a.b == nil:
		a.b = make([]byte, arrayHeader, arrayHeader+total*16)
	case a.n == 64 && total > 128:
		if need := len(a.b) / 64 * total; need > cap(a.b) {
			a.b = append(make([]byte, 0, need+need/8), a.b...)
		}
	}
}

// append adds an element: its length and its bytes.
func (a *textArray) append(text []byte) {
	a.b = binary.BigEndian.AppendUint32(a.b, uint32(len(text)))
	a.b = append(a.b, text...)
	a.n++
}

// appendNull adds a NULL, which has the length -1 and no bytes.
func (a *textArray) appendNull() {
	a.b = append(a.b, 0xff, 0xff, 0xff, 0xff)
	a.n++
	a.nulls = true
}

// bytes is the finished array: one dimension, lower bound 1. The header is written last, when the number of elements is known.
func (a *textArray) bytes() []byte {
	if a.n == 0 {
		return []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, textOID} // an empty array has no dimensions
	}
	header := a.b[:0]
	header = binary.BigEndian.AppendUint32(header, 1)
	flags := uint32(0)
	if a.nulls {
		flags = 1
	}
	header = binary.BigEndian.AppendUint32(header, flags)
	header = binary.BigEndian.AppendUint32(header, textOID)
	header = binary.BigEndian.AppendUint32(header, uint32(a.n))
	binary.BigEndian.AppendUint32(header, 1)
	return a.b
}
