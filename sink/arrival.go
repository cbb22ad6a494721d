package sink

// arrival is the transaction whose parts are arriving. The reader's goroutine owns the arrival.
type arrival struct {
	id      int64          // sequence id, -1 before the first transaction
	inside  bool           // the last part has not come
	number  uint64         // counts the arrivals
	touched []*Destination // have changes of the transaction in their queues
}

// begin begins the arrival of the next transaction.
func (a *arrival) begin(id int64) {
	a.id, a.touched, a.number = id, a.touched[:0], a.number+1
}

// touch adds a destination to touched, once.
func (a *arrival) touch(d *Destination) {
	if d.touched != a.number {
		d.touched = a.number
		a.touched = append(a.touched, d)
	}
}
