// Package verification compares all chosen destinations with the primary: what outflow verify does. How one destination is compared, and why changes on
// their way are no differences, is in package sink.
//
// [Prepare] reads the primary's catalog and finds the destinations; [Comparison.Run] compares them, two at once, because each comparison reads all rows of its
// tenant on the primary. The worst result counts for all: a difference that was found is worse than a destination that could not be compared.
package verification
