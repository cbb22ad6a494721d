package pgcluster

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// attributes put a server in a process group of its own, and have the kernel stop the server (SIGQUIT is Postgres'
// immediate shutdown) when the starting thread ends.
func attributes(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT, Credential: as}
}

// children lists the direct children of a process. No grandchild of Postgres outlives the children, and each child
// leads a session of its own, so the process group does not find the children.
func children(parent int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if _, ppid, err := stat(pid); err == nil && ppid == parent {
			found = append(found, pid)
		}
	}
	return found, nil
}

// running reports whether a process still runs. A zombie does not: init collects zombies, sometimes late.
func running(pid int) bool {
	state, _, err := stat(pid)
	return err == nil && state != 'Z' && state != 'X'
}

// stat reads a process's state and parent. The name before the two may hold anything, so the search starts behind the
// end of the name.
func stat(pid int) (state byte, ppid int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: unexpected %q", pid, text)
	}
	ppid, err = strconv.Atoi(string(fields[1]))
	return fields[0][0], ppid, err
}
