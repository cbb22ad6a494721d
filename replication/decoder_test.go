package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/wal"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// messages builds pgoutput messages for tests; real ones are in TestDecoderAgreesWithPglogrepl.
type messages struct{ bytes.Buffer }

func (m *messages) put(fields ...any) *messages {
	for _, f := range fields {
		if s, ok := f.(string); ok {
			m.WriteString(s + "\x00")
			continue
		}
		if err := binary.Write(&m.Buffer, binary.BigEndian, f); err != nil {
			panic(err)
		}
	}
	return m
}

func begin(commit uint64) []byte {
	return new(messages).put(byte('B'), commit, int64(0), uint32(7)).Bytes()
}

func commit(lsn, end uint64) []byte {
	return new(messages).put(byte('C'), byte(0), lsn, end, int64(0)).Bytes()
}

// relation describes public.t (id int key, v text).
func relation() []byte {
	return new(messages).put(byte('R'), uint32(1), "public", "t", byte('d'), uint16(2),
		byte(1), "id", uint32(23), int32(-1), byte(0), "v", uint32(25), int32(-1)).Bytes()
}

func text(s string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'t'}, uint32(len(s)))
	return append(b, s...)
}

func row(tag byte, columns ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{tag}, uint16(len(columns)))
	return append(b, bytes.Join(columns, nil)...)
}

func change(kind byte, rows ...[]byte) []byte {
	return append([]byte{kind, 0, 0, 0, 1}, bytes.Join(rows, nil)...)
}

func TestDecodeChanges(t *testing.T) {
	d := NewDecoder()
	stream := [][]byte{
		begin(100), relation(),
		change('I', row('N', text("1"), text("one"))),
		change('U', row('K', text("1"), []byte{'n'}), row('N', text("2"), []byte{'u'})),
		change('U', row('O', text("2"), text("whole")), row('N', text("3"), []byte{'u'})),
		change('D', row('K', text("2"), []byte{'n'})),
		new(messages).put(byte('T'), uint32(1), byte(0), uint32(1)).Bytes(),
	}
	var got []wal.Change
	for _, m := range stream {
		event, err := d.Decode(m)
		if err != nil {
			t.Fatal(err)
		}
		clear(m) // what was decoded must own its memory
		if c, ok := event.(Changes); ok {
			got = append(got, c...)
		}
	}
	type flat struct {
		Kind     wal.Kind
		Ordinal  uint32
		Old, New string
	}
	var have []flat
	for _, c := range got {
		have = append(have, flat{c.Kind, c.Ordinal, show(c.Old), show(c.New)})
	}
	want := []flat{{wal.Insert, 0, "", "1 one"}, {wal.Update, 1, "1 NULL", "2 (unchanged)"},
		{wal.Update, 2, "2 whole", "3 whole"}, {wal.Delete, 3, "2 NULL", ""}, {wal.Truncate, 4, "", ""}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	if c, err := d.Decode(commit(100, 120)); err != nil || c != (Commit{100, 120}) {
		t.Errorf("commit: %v, %v", c, err)
	}
}

// A publication without column lists sends whole tables: what nobody wants is left out of relation and rows alike.
func TestDecodeLeavesColumnsOut(t *testing.T) {
	d := NewDecoder()
	described := new(messages).put(byte('R'), uint32(1), "public", "t", byte('d'), uint16(5),
		byte(0), "secret", uint32(25), int32(-1), byte(0), "v", uint32(25), int32(-1), byte(0), "doc", uint32(25), int32(-1),
		byte(1), "id", uint32(23), int32(-1), byte(0), "w", uint32(25), int32(-1)).Bytes()
	var got []string
	for i, m := range [][]byte{
		begin(100), described,
		change('I', row('N', text("hidden"), text("one"), text("hidden"), text("1"), text("last"))),
		change('U', row('K', []byte{'n'}, []byte{'n'}, []byte{'n'}, text("1"), []byte{'n'}),
			row('N', text("hidden"), []byte{'n'}, []byte{'u'}, text("2"), []byte{'u'})),
	} {
		event, err := d.Decode(m)
		if err != nil {
			t.Fatal(err)
		}
		switch e := event.(type) {
		case *wal.Relation:
			e.Only([]string{"w", "v"})
			if diff := cmp.Diff([]string{"v", "id", "w"}, e.Names()); diff != "" || e.Columns[e.Key[0]].Name != "id" {
				t.Errorf("message %d: the key is %v, the columns are (-expected +found):\n%s", i, e.Key, diff)
			}
		case Changes:
			got = append(got, show(e[0].Old)+" "+show(e[0].New))
		}
	}
	if diff := cmp.Diff([]string{show(wal.Tuple{}) + " one 1 last", "NULL 1 NULL NULL 2 (unchanged)"}, got); diff != "" {
		t.Errorf("rows (-expected +found):\n%s", diff)
	}
	_, err := d.Decode(change('I', row('N', text("1"), text("one"))))
	if err == nil || !strings.Contains(err.Error(), "a row of 2 columns, but the relation was sent with 5") {
		t.Errorf("a row of another width: %v", err)
	}
}

func TestDecodeMessage(t *testing.T) {
	m := new(messages).put(byte('M'), byte(1), uint64(7), "somebody", uint32(3), []byte("abc")).Bytes()
	event, err := NewDecoder().Decode(m)
	if want := (Message{Prefix: "somebody", Content: []byte("abc")}); err != nil || !cmp.Equal(event, want) {
		t.Errorf("%+v, %v", event, err)
	}
	for _, size := range []uint32{4, 1 << 31, 1<<32 - 1} { // more than there is
		if event, err := NewDecoder().Decode(new(messages).put(byte('M'), byte(1), uint64(7), "somebody", size, []byte("abc")).Bytes()); err == nil {
			t.Errorf("a content of %d bytes that is not there: %+v", size, event)
		}
	}
}

func show(t wal.Tuple) string {
	s := ""
	for _, v := range t.Values(nil) {
		if s != "" {
			s += " "
		}
		switch v.Presence {
		case wal.Text:
			s += string(v.Text)
		case wal.Null:
			s += "NULL"
		case wal.Unchanged:
			s += "(unchanged)"
		}
	}
	return s
}

func TestDecodeRefuses(t *testing.T) {
	for name, stream := range map[string][][]byte{
		"empty message":                 {{}},
		"unknown message":               {{'?'}},
		"change outside a transaction":  {change('I', row('N', text("1")))},
		"change of an unknown relation": {begin(1), change('I', row('N', text("1"), text("x")))},
		"too few columns":               {begin(1), relation(), change('I', row('N', text("1")))},
		"binary column":                 {begin(1), relation(), change('I', row('N', text("1"), []byte{'b', 0, 0, 0, 0}))},
		"insert without a row":          {begin(1), relation(), change('I', []byte{'N'})},
		"delete without a row":          {begin(1), relation(), change('D', []byte{'X'})},
		"transaction in a transaction":  {begin(1), begin(2)},
		"commit of nothing":             {commit(1, 2)},
		"commit of another one":         {begin(1), commit(2, 3)},
		"impossible size":               {begin(1), relation(), change('I', row('N', text("1"), []byte{'t', 0xff, 0xff, 0xff, 0xff}))},
	} {
		d := NewDecoder()
		var err error
		for _, m := range stream {
			if _, err = d.Decode(m); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Every truncation of a valid message is an error, not a panic and not half a change.
func TestDecodeTruncated(t *testing.T) {
	full := change('U', row('K', text("1"), []byte{'n'}), row('N', text("2"), text("two")))
	for n := 1; n < len(full); n++ {
		d := NewDecoder()
		for _, m := range [][]byte{begin(1), relation()} {
			if _, err := d.Decode(m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.Decode(full[:n]); err == nil {
			t.Errorf("%d of %d bytes: no error", n, len(full))
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range [][]byte{begin(1), commit(1, 2), relation(), change('I', row('N', text("1"), text("one"))),
		change('U', row('O', text("1"), []byte{'n'}), row('N', text("2"), []byte{'u'})), change('D', row('K', text("2"), []byte{'n'})),
		{'T', 0, 0, 0, 1, 0, 0, 0, 0, 1}, {'Y'}, {'O'}, {'M'}} {
		f.Add(m)
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		d := NewDecoder()
		for _, m := range [][]byte{begin(1), relation()} {
			if _, err := d.Decode(m); err != nil {
				t.Fatal(err)
			}
		}
		event, err := d.Decode(m)
		if err != nil {
			if event != nil {
				t.Errorf("both an event and %v", err)
			}
			return
		}
		changes, ok := event.(Changes)
		if !ok {
			return
		}
		for _, c := range changes {
			for _, tuple := range []wal.Tuple{c.Old, c.New} {
				values := tuple.Values(nil)
				if len(values) != tuple.Len() || tuple.Bytes() > len(m) {
					t.Errorf("%d values of %d, %d bytes out of %d", len(values), tuple.Len(), tuple.Bytes(), len(m))
				}
				if again := wal.NewTuple(values); !tuple.IsZero() && !reflect.DeepEqual(again, tuple) {
					t.Errorf("a tuple of its own values differs: %v, %v", again, tuple)
				}
			}
		}
		if parsed, err := pglogreplParse(m); err == nil {
			compare(t, parsed, changes)
		}
	})
}

// pglogreplParse is pglogrepl.Parse, which panics on some messages.
func pglogreplParse(m []byte) (parsed pglogrepl.Message, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it panicked")
		}
	}()
	return pglogrepl.Parse(m)
}

// compare holds our reading of a row message against pglogrepl's.
func compare(t *testing.T, parsed pglogrepl.Message, changes Changes) {
	t.Helper()
	var old, new_ *pglogrepl.TupleData
	whole := false // an old row that is complete fills the new one
	switch m := parsed.(type) {
	case *pglogrepl.InsertMessage:
		new_ = m.Tuple
	case *pglogrepl.UpdateMessage:
		old, new_ = m.OldTuple, m.NewTuple
		whole = m.OldTupleType == 'O'
	case *pglogrepl.DeleteMessage:
		old = m.OldTuple
	default:
		return
	}
	want := flatten(new_)
	if whole {
		want = want.Fill(flatten(old))
	}
	if diff := cmp.Diff(show(flatten(old)), show(changes[0].Old)); diff != "" {
		t.Errorf("old row (-pglogrepl +ours): %s", diff)
	}
	if diff := cmp.Diff(show(want), show(changes[0].New)); diff != "" {
		t.Errorf("new row (-pglogrepl +ours): %s", diff)
	}
}

func flatten(tuple *pglogrepl.TupleData) wal.Tuple {
	if tuple == nil {
		return wal.Tuple{}
	}
	values := make([]wal.Value, len(tuple.Columns))
	for i, c := range tuple.Columns {
		values[i] = wal.Value{Presence: wal.Presence(c.DataType), Text: c.Data}
	}
	return wal.NewTuple(values)
}
