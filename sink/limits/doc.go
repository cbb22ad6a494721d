// Package limits bounds what the destinations of a process take together: memory for rows of the primary ([Memory], and how much of the memory a
// destination asks for: [Appetite]), slots for copies ([Slots]), and goroutines ([Workers]). [Pauses] are the waits between tries, spread so that
// destinations which failed together do not come again together.
//
// # Guarantees
//
//   - No destination waits forever while others finish their work: waits are in lines, and a request for more memory than there is gets all
//     of the memory.
//   - A slow external database keeps nothing from the others for longer than a second: its memory is in a lane of its own, and a slot of a
//     database that owes an answer is given to another destination too.
//   - A small copy waits for no large copy, unless as many chunks as there may be are in memory.
//   - A destination that was nudged to take a slot and does not come keeps no slot free.
//
// # Lock order
//
// [Workers] has one lock, under which no other lock is taken. [Slots] has one lock. A user's nudge is called with the lock held, and may take the lock of its destination: a holder of a destination's lock calls
// no method of [Slots] or [SlotUser].
//
// # Rejected designs
//
//   - One memory for queues, look-ups and copies: a copy that waits for the stream would hold the memory that the stream waits for.
//   - An estimate of a copy's size before the copy has a slot: the estimate is a question to the primary, and is wrong for an unknown table.
//   - Slots in the order of arrival alone: one tenant with a huge table would keep every small tenant behind it from being filled.
package limits
