//go:build race

package e2e

// raceEnabled says that the race detector, which multiplies memory, is in this binary.
const raceEnabled = true
