package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// diskSize is the size of the file system: room for the database, and for a copy.
const diskSize = 256 << 20

// disk is a small file system in memory, with the tablespace of a single external database.
type disk struct{ dir string }

// newDisk mounts a file system; nil where the process may not mount. The leftovers of a killed run are removed first.
func newDisk(w *world) *disk {
	removeStale()
	dir, err := os.MkdirTemp("", "outflow-torture-disk-")
	must(w.t, err)
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := syscall.Mount(diskOf(os.Getpid()), dir, "tmpfs", 0, "mode=777,size="+strconv.Itoa(diskSize)); err != nil {
		w.t.Logf("no destination has a disk that can be full: mounting a tmpfs: %v", err)
		return nil
	}
	w.t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return &disk{dir}
}

// diskOf names the device of a process, so another process sees the owner of the mount.
func diskOf(pid int) string { return fmt.Sprintf("outflow-torture-%d", pid) }

// removeStale unmounts the file systems of ended processes.
func removeStale() {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		pid, err := strconv.Atoi(strings.TrimPrefix(fields[0], "outflow-torture-"))
		if err != nil || fields[0] != diskOf(pid) || errors.Is(syscall.Kill(pid, 0), nil) {
			continue
		}
		_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
		_ = os.Remove(fields[1])
	}
}

// tablespace makes a tablespace of the disk on a server, and returns the clause of CREATE DATABASE.
func (d *disk) tablespace(ctx context.Context, s *targetServer) (string, error) {
	if d == nil {
		return "", nil
	}
	dir := filepath.Join(d.dir, "tablespace")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	data, err := os.Stat(s.dataDir(ctx))
	if err != nil {
		return "", err
	}
	owner := data.Sys().(*syscall.Stat_t)
	if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
		return "", err
	}
	return " TABLESPACE small", s.Exec(ctx, "", "CREATE TABLESPACE small LOCATION '"+dir+"'")
}

// dataDir is the data directory of a server, "" where the server does not tell.
func (s *targetServer) dataDir(ctx context.Context) (dir string) {
	_ = queryRow(ctx, s.DSN(""), `SHOW data_directory`, &dir)
	return dir
}

// fillDisk fills the disk to the last byte.
func fillDisk(_ context.Context, w *world, s *targetServer, _ *rand.Rand) (heal, error) {
	if w.disk == nil || s != w.west {
		return nil, errors.New("no destination of the server has a disk of its own")
	}
	filler := filepath.Join(w.disk.dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for chunk, size := make([]byte, 1<<20), 1<<20; size > 0; {
		if _, err := f.Write(chunk[:size]); err != nil {
			size /= 2
		}
	}
	return func(context.Context) error { return os.Remove(filler) }, nil
}
