//go:build !failpoint

package failpoint

// Hit does the action of a point that cannot fail.
func Hit(Point) {}

// Fail does the action of a point, and returns the point's error. The error is nil unless the action is "error".
func Fail(Point) error { return nil }
