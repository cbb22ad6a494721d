//go:build linux

package pgcluster_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"outflow/internal/pgcluster"
)

// helperEnv makes the test binary play the process that owns a cluster: it prints the address and the directory, waits
// for the end of its input, and closes the cluster.
const helperEnv = "OUTFLOW_PGCLUSTER_HELPER"

func TestHelper(t *testing.T) {
	parent := os.Getenv(helperEnv)
	if parent == "" {
		t.Skip("only run by the other tests")
	}
	c, err := pgcluster.Start(t.Context(), pgcluster.Options{Dir: parent})
	ok(t, err)
	defer c.Close()
	fmt.Println("addr", c.Addr())
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// owner starts the helper, as another user where as is not nil, and returns it with its cluster's address.
func owner(t *testing.T, as *syscall.Credential) (cmd *exec.Cmd, end func(), addr string) {
	t.Helper()
	skipGiven(t)
	dir, err := os.MkdirTemp("", "outflow-helper-")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ok(t, os.Chmod(dir, 0o777))
	binary := filepath.Join(dir, "helper") // go test's own directory is closed to other users
	self, err := os.ReadFile(os.Args[0])
	ok(t, err)
	ok(t, os.WriteFile(binary, self, 0o755))

	cmd = exec.Command(binary, "-test.run=^TestHelper$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), helperEnv+"="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	ok(t, err)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() }) //nolint:errcheck // it has ended where all is well
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), "addr "); found {
			return cmd, func() { in.Close() }, rest
		}
	}
	t.Fatal("the helper started no cluster")
	return nil, nil, ""
}

func TestClusterDiesWithItsOwner(t *testing.T) {
	cmd, _, addr := owner(t, nil)
	conn, err := net.Dial("tcp", addr)
	ok(t, err)
	conn.Close()
	ok(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for deadline := time.Now().Add(15 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("the server outlives its killed owner")
		}
	}
}

func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("every other test runs as an ordinary user already")
	}
	nobody, err := user.Lookup("nobody")
	ok(t, err)
	uid, err := strconv.Atoi(nobody.Uid)
	ok(t, err)
	gid, err := strconv.Atoi(nobody.Gid)
	ok(t, err)
	cmd, end, _ := owner(t, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)})
	end()
	ok(t, cmd.Wait())
	if left, _ := filepath.Glob(filepath.Join(cmd.Dir, "outflow-pg-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
