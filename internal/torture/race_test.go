//go:build race

package torture

// raceEnabled says that the race detector, which multiplies memory, is in this binary.
const raceEnabled = true
