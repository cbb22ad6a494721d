//go:build unix && !linux

package pgcluster

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// attributes put a server in a process group of its own. There is no parent-death signal here.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as}
}

// children lists the direct children of a process.
func children(parent int) ([]int, error) {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=").Output()
	if err != nil {
		return nil, err
	}
	var found []int
	for line := range strings.Lines(string(out)) {
		var pid, ppid int
		if _, err := fmt.Sscan(line, &pid, &ppid); err == nil && ppid == parent {
			found = append(found, pid)
		}
	}
	return found, nil
}

// running reports whether a process still runs.
func running(pid int) bool { return syscall.Kill(pid, 0) == nil }
