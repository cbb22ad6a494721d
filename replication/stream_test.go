package replication

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"outflow/internal/pgcluster/pgtest"
	"outflow/replication/primary"
)

// A host that breaks the connection off has pgconn dial the host again in the background, for a cancel request. That connection is not
// the one of the stream, which has come about with another host meanwhile.
func TestStreamIsNotTheConnectionOfACancelRequest(t *testing.T) {
	t.Parallel()
	broken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	go func() {
		for {
			c, err := broken.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1000))
			c.Close()
		}
	}()
	cluster := pgtest.Shared(t)
	good := cluster.Addr()
	dsn := strings.Replace(pgtest.Database(t, cluster), good, broken.Addr().String()+","+good, 1)
	p, err := primary.New(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config := p.ReplicationConfig()
	dial, dials := config.DialFunc, 0
	connected, cancelled := make(chan struct{}), make(chan struct{})
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != good {
			if dials++; dials == 2 { // the first dial has ended: pgconn dials again because of what that connection did
				defer close(cancelled)
				<-connected
			}
		}
		return dial(ctx, network, addr)
	}
	conn, s, err := connectStream(t.Context(), config)
	close(connected)
	if err != nil {
		t.Fatal(err)
	}
	<-cancelled
	if now := s.conn.RemoteAddr().String(); now != good {
		t.Errorf("the stream reads from %s, the connection is to %s", now, good)
	}
	if _, err := pglogrepl.IdentifySystem(t.Context(), conn); err != nil {
		t.Error(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
