//go:build !race

package main

// raceEnabled says that the race detector, which multiplies memory, is in this binary.
const raceEnabled = false
