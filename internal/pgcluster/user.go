package pgcluster

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// serverUser is the user of the server process: nil is the current user. Postgres refuses to run as root, so root needs
// another.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("pgcluster: Postgres does not run as root, and there is neither a user postgres nor nobody")
}

// makeDir makes the cluster's directory, owned by the user of the server. makeDir refuses a directory out of reach for
// the user: the server's own message would not say why.
func makeDir(parent string, as *syscall.Credential) (string, error) {
	if parent == "" {
		parent = os.TempDir()
		if as != nil && blocked(parent, as) != "" {
			parent = "/tmp" // root's TMPDIR can be private to root
		}
	}
	dir, err := os.MkdirTemp(parent, "outflow-pg-")
	if err != nil || as == nil {
		return dir, err
	}
	dir, err = filepath.Abs(dir)
	if err == nil {
		err = os.Chown(dir, int(as.Uid), int(as.Gid))
	}
	if barrier := blocked(filepath.Dir(dir), as); err == nil && barrier != "" {
		err = fmt.Errorf("user %d, who runs the server, cannot enter %s: choose another Dir or chmod o+x it", as.Uid, barrier)
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}

// blocked returns the first directory on the way to dir, from the bottom up, which a user cannot enter; "" means every
// directory is open.
func blocked(dir string, as *syscall.Credential) string {
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return dir
		}
		mode, need := info.Mode().Perm(), os.FileMode(0o001)
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			switch {
			case stat.Uid == as.Uid:
				need = 0o100
			case stat.Gid == as.Gid:
				need = 0o010
			}
		}
		if mode&need == 0 {
			return dir
		}
		if filepath.Dir(dir) == dir {
			return ""
		}
		dir = filepath.Dir(dir)
	}
}
