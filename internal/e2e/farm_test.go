package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	osexec "os/exec"
	"syscall"
	"testing"

	"outflow/internal/liar"
)

// lying is what a hostile server is made of: see liar.Listen.
type lying struct {
	Target string
	Seed   uint64
	Rate   float64
}

// farm is a process with lying servers, at the lowest priority: a server that floods the loopback interface leaves the processors to the
// others, as a server elsewhere does.
type farm struct {
	orders  *json.Encoder
	answers *bufio.Reader
}

// newFarm starts this test binary as a farm, which ends with the test.
func newFarm(t *testing.T) *farm {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OUTFLOW_TEST_FARM=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		must(t, cmd.Wait())
	})
	return &farm{json.NewEncoder(in), bufio.NewReader(out)}
}

// dsn starts a hostile server and returns the string with the server's address in place of the string's own.
func (f *farm) dsn(t *testing.T, h lying, dsn string) string {
	t.Helper()
	must(t, f.orders.Encode(h))
	addr, err := f.answers.ReadString('\n')
	must(t, err)
	u, err := url.Parse(dsn)
	must(t, err)
	u.Host = addr[:len(addr)-1]
	return u.String()
}

// runFarm is the process of a farm: an order on the input starts a server, and the output is the server's address.
func runFarm() error {
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
		return err
	}
	for orders := json.NewDecoder(os.Stdin); ; {
		var h lying
		if err := orders.Decode(&h); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		s, err := liar.Listen(h.Target, h.Seed, h.Rate)
		if err != nil {
			return err
		}
		fmt.Println(s.Addr())
	}
}
