//go:build !linux

package primary

import "time"

// setUserTimeout does nothing: only Linux has TCP_USER_TIMEOUT. The limit of the server's silence ends the session later.
func setUserTimeout(uintptr, time.Duration) {}
