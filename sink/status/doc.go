// Package status is what a destination shows: its state, figures and last failure at one moment, and the history of its states. The shown state
// follows from the lifecycle alone ([StateOf]), so no code sets a state for show.
package status
