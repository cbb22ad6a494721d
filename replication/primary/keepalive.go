package primary

import (
	"net"
	"time"
)

// A connection to a machine that is gone without a word ends after about unheard: by keepalives while no data is under way, and by
// TCP_USER_TIMEOUT where the kernel knows it and status updates stay unacknowledged, which would otherwise take 15 minutes (tcp(7)).
const unheard = 30 * time.Second

// keepAlive has the kernel find a half-open connection. A socket that refuses the options keeps its own.
func keepAlive(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return // a unix socket ends with the server
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: unheard / 3, Interval: unheard / 6, Count: 4})
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { setUserTimeout(fd, unheard) })
	}
}
