package pgcluster

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMakeDirNeedsAWayThrough(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	stranger := &syscall.Credential{Uid: 4242, Gid: 4242}
	private := t.TempDir()
	if err := os.Chmod(filepath.Dir(private), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := makeDir(private, stranger); err == nil || !strings.Contains(err.Error(), "cannot enter") {
		t.Errorf("makeDir in a private directory: %v", err)
	}
	if left, _ := os.ReadDir(private); len(left) != 0 {
		t.Error("makeDir left a directory behind")
	}

	t.Setenv("TMPDIR", private)
	dir, err := makeDir("", stranger)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if filepath.Dir(dir) != "/tmp" {
		t.Errorf("made %s, want it in /tmp where TMPDIR is private", dir)
	}
}
