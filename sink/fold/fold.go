package fold

import (
	"encoding/binary"
	"time"

	"outflow/mapping"
	"outflow/replication/wal"
)

// Fold gathers changes in source order and keeps the net change per table and key: the last state wins. A change of a
// row's key is a delete of the old key and an upsert of the new one. The zero Fold is ready. A Fold belongs to one goroutine at a time.
type Fold struct {
	tables map[string]*tableFold
	keyer  Keyer
}

type tableFold struct {
	relation *wal.Relation
	index    map[string]int
	entries  []entry
	changed  bool // there was something else than inserts
}

type entry struct {
	row       mapping.Row
	delete    bool
	tombstone bool // of a delete: known only from a tombstone
}

// Add takes one insert, update or delete. table is the name by which mappings know the change's table. sequenceID and committed are those of
// the change's transaction.
func (f *Fold) Add(table string, c *wal.Change, sequenceID int64, committed time.Time) {
	tf := f.table(table, c.Relation)
	tf.changed = tf.changed || c.Kind != wal.Insert
	row := mapping.Row{SequenceID: sequenceID, CommittedAt: committed}
	if c.Kind == wal.Delete {
		row.Tuple = c.Old
		tf.put(f.keyer.bytes(c.Relation, c.Old), entry{row: row, delete: true, tombstone: c.Tombstone})
		return
	}
	row.Tuple = c.New
	key := f.keyer.bytes(c.Relation, c.New)
	if c.Kind == wal.Update && !c.Old.IsZero() {
		before := string(key)
		if old := f.keyer.bytes(c.Relation, c.Old); string(old) != before {
			tf.moved(old, &row)
			tf.put(old, entry{row: mapping.Row{Tuple: c.Old, SequenceID: sequenceID, CommittedAt: committed}, delete: true})
			key = []byte(before)
		}
	}
	tf.put(key, entry{row: row})
}

func (f *Fold) table(name string, rel *wal.Relation) *tableFold {
	tf := f.tables[name]
	if tf == nil {
		if f.tables == nil {
			f.tables = map[string]*tableFold{}
		}
		tf = &tableFold{relation: rel, index: map[string]int{}}
		f.tables[name] = tf
	}
	return tf
}

// Keyer makes texts of keys. The zero Keyer is ready; it keeps memory from one key to the next, and belongs to one goroutine at a time.
type Keyer struct {
	key    []byte
	values []wal.Value
}

// Key is a row's key as text: equal keys of one relation have equal texts. The row has a value for every column of the relation.
func (k *Keyer) Key(rel *wal.Relation, row wal.Tuple) string {
	return string(k.bytes(rel, row))
}

// bytes is Key, valid until the next call: each value with its length in front.
func (k *Keyer) bytes(rel *wal.Relation, row wal.Tuple) []byte {
	k.values = row.Values(k.values[:0])
	k.key = k.key[:0]
	for _, i := range rel.Key {
		v := k.values[i]
		k.key = append(k.key, byte(v.Presence))
		k.key = binary.BigEndian.AppendUint32(k.key, uint32(len(v.Text)))
		k.key = append(k.key, v.Text...)
	}
	return k.key
}

// put sets the net change of a key. The columns that an update left in TOAST come from the row that the batch already has. A
// tombstone tells of the row's earlier life where its own transaction wrote the row, whichever of the two comes first in the
// stream. A tombstone and the real delete are one delete, with the tombstone's columns where the stream brings only the key.
func (tf *tableFold) put(key []byte, e entry) {
	i, ok := tf.index[string(key)]
	if !ok {
		tf.index[string(key)] = len(tf.entries)
		tf.entries = append(tf.entries, e)
		return
	}
	before := &tf.entries[i]
	switch {
	case !before.delete && !e.delete:
		e.row.Tuple = e.row.Tuple.Fill(before.row.Tuple)
	case !before.delete && e.tombstone && before.row.SequenceID == e.row.SequenceID:
		return
	case before.delete && e.delete:
		e.tombstone = e.tombstone && before.tombstone
		if known(before.row.Tuple) > known(e.row.Tuple) { // a DELETE knows the key, its tombstone perhaps all
			e.row.Tuple = before.row.Tuple
		}
	}
	*before = e
}

// known is how many columns of a row are known and not NULL.
func known(t wal.Tuple) (n int) {
	for i := range t.Len() {
		if t.Value(i).Presence == wal.Text {
			n++
		}
	}
	return n
}

// moved fills a row whose key changed from the batch's row under the old key.
func (tf *tableFold) moved(old []byte, row *mapping.Row) {
	if i, ok := tf.index[string(old)]; ok && !tf.entries[i].delete {
		row.Tuple = row.Tuple.Fill(tf.entries[i].row.Tuple)
	}
}

// Relation is the relation of the changes of a table so far, nil where the table has none.
func (f *Fold) Relation(table string) *wal.Relation {
	if tf := f.tables[table]; tf != nil {
		return tf.relation
	}
	return nil
}

// Rows are the net changes per table. A key's last change is the key's only one: an upsert or a delete.
func (f *Fold) Rows() map[string]*mapping.Rows {
	all := make(map[string]*mapping.Rows, len(f.tables))
	for name, tf := range f.tables {
		r := &mapping.Rows{Relation: tf.relation, New: !tf.changed}
		for _, e := range tf.entries {
			if e.delete {
				r.Deletes = append(r.Deletes, e.row)
			} else {
				r.Upserts = append(r.Upserts, e.row)
			}
		}
		all[name] = r
	}
	return all
}

// KeyTuple is the row that [Keyer.Key] made a key of; all other columns are NULL.
func KeyTuple(rel *wal.Relation, key string) wal.Tuple {
	values := make([]wal.Value, len(rel.Columns))
	for i := range values {
		values[i].Presence = wal.Null
	}
	for _, i := range rel.Key {
		size := 5 + int(binary.BigEndian.Uint32([]byte(key[1:5])))
		values[i] = wal.Value{Presence: wal.Presence(key[0]), Text: []byte(key[5:size])}
		key = key[size:]
	}
	return wal.NewTuple(values)
}
