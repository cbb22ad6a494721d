// Package verification compares all chosen destinations with the primary, for outflow verify. Package sink/verify compares one destination, and
// tells changes on their way from differences.
//
// [Prepare] reads the primary's catalog and finds the destinations. [Comparison.Run] compares two destinations at once, because each comparison
// reads all rows of the tenant on the primary. The worst result counts for all: a difference is worse than a failed comparison.
package verification
