package sink

import "outflow/sink/destination"

// arrival is the transaction whose parts are arriving. The reader's goroutine owns the arrival.
type arrival struct {
	id      int64                      // sequence id, -1 before the first transaction
	inside  bool                       // the last part has not come
	number  uint64                     // counts the arrivals
	touched []*destination.Destination // have changes of the transaction in their queues
}

// begin begins the arrival of the next transaction.
func (a *arrival) begin(id int64) {
	a.id, a.touched, a.number = id, a.touched[:0], a.number+1
}

// touch adds a destination to touched, once.
func (a *arrival) touch(d *destination.Destination) {
	if d.Touched != a.number {
		d.Touched = a.number
		a.touched = append(a.touched, d)
	}
}
