package sink

import (
	"encoding/binary"

	"outflow/mapping"
	"outflow/replication"
)

// fold gathers changes in source order and keeps the net change per table and key: the last state wins. A change of a
// row's key is a delete of the old key and an upsert of the new one. The zero value is ready; it is not safe for
// concurrent use.
type fold struct {
	tables map[string]*tableFold
	key    []byte // scratch
	values []replication.Value
}

type tableFold struct {
	relation *replication.Relation
	index    map[string]int
	entries  []entry
	changed  bool // there was something else than inserts
}

type entry struct {
	row       mapping.Row
	delete    bool
	tombstone bool // of a delete: known only from a tombstone
}

// add takes one insert, update or delete. table is the name by which mappings know the change's table.
func (f *fold) add(table string, c *replication.Change, t *transaction) {
	tf := f.table(table, c.Relation)
	tf.changed = tf.changed || c.Kind != replication.Insert
	row := mapping.Row{SequenceID: t.id, CommittedAt: t.committed}
	if c.Kind == replication.Delete {
		row.Tuple = c.Old
		tf.put(f.keyOf(c.Relation, c.Old), entry{row: row, delete: true, tombstone: c.Tombstone})
		return
	}
	row.Tuple = c.New
	key := f.keyOf(c.Relation, c.New)
	if c.Kind == replication.Update && !c.Old.IsZero() {
		before := string(key)
		if old := f.keyOf(c.Relation, c.Old); string(old) != before {
			tf.moved(old, &row)
			tf.put(old, entry{row: mapping.Row{Tuple: c.Old, SequenceID: t.id, CommittedAt: t.committed}, delete: true})
			key = []byte(before)
		}
	}
	tf.put(key, entry{row: row})
}

func (f *fold) table(name string, rel *replication.Relation) *tableFold {
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

// keyOf is the row's key as bytes, valid until the next call: each value with its length in front.
func (f *fold) keyOf(rel *replication.Relation, t replication.Tuple) []byte {
	f.values = t.Values(f.values[:0])
	f.key = appendKey(f.key[:0], rel, f.values)
	return f.key
}

func appendKey(key []byte, rel *replication.Relation, values []replication.Value) []byte {
	for _, i := range rel.Key {
		v := values[i]
		key = append(key, byte(v.Presence))
		key = binary.BigEndian.AppendUint32(key, uint32(len(v.Text)))
		key = append(key, v.Text...)
	}
	return key
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
func known(t replication.Tuple) (n int) {
	for i := range t.Len() {
		if t.Value(i).Presence == replication.Text {
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

// rows are the net changes per table.
func (f *fold) rows() map[string]*mapping.Rows {
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

// keyTuple is the row that a key was made of; all else is NULL.
func keyTuple(rel *replication.Relation, key string) replication.Tuple {
	values := make([]replication.Value, len(rel.Columns))
	for i := range values {
		values[i].Presence = replication.Null
	}
	for _, i := range rel.Key {
		size := 5 + int(binary.BigEndian.Uint32([]byte(key[1:5])))
		values[i] = replication.Value{Presence: replication.Presence(key[0]), Text: []byte(key[5:size])}
		key = key[size:]
	}
	return replication.NewTuple(values)
}
