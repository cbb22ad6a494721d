package primary

import (
	"net"
	"syscall"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

// A primary that is gone without a word is found by the kernel: the socket of a connection has keepalives, and a limit for data under way.
func TestConnectionHasKeepalives(t *testing.T) {
	t.Parallel()
	p, err := New(pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.connectReplication(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	raw, err := conn.Conn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for option, want := range map[int]int{tcpUserTimeout: int(unheard.Milliseconds()), syscall.TCP_KEEPIDLE: int(unheard.Seconds()) / 3} {
			if got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option); err != nil || got != want {
				t.Errorf("TCP option %d is %d, %v; expected %d", option, got, err, want)
			}
		}
	})
	if err != nil {
		t.Error(err)
	}
}
