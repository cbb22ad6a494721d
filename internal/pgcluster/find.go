package pgcluster

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// Install is a directory with the server's binaries.
type Install struct {
	Dir     string // holds initdb and postgres
	Version int    // major version
}

func (i Install) path(binary string) string { return filepath.Join(i.Dir, binary) }

// Installed lists the server binaries of the machine, in search order, each directory once; the newest first within a
// place of the order. Where OUTFLOW_TEST_PG_BIN is set, the variable names the only place.
func Installed() []Install {
	var found []Install
	for _, place := range places() {
		var here []Install
		for _, dir := range place {
			install, err := inspect(dir)
			if err == nil && !slices.Contains(found, install) && !slices.Contains(here, install) {
				here = append(here, install)
			}
		}
		slices.SortStableFunc(here, func(a, b Install) int { return cmp.Compare(b.Version, a.Version) })
		found = append(found, here...)
	}
	return found
}

// find returns the first install of a major version, 0 being any. Where OUTFLOW_TEST_PG_BIN has no usable install, find
// returns an error: the user who sets the variable does not want another install.
func find(version int) (Install, error) {
	installed := Installed()
	for _, install := range installed {
		if version == 0 || install.Version == version {
			return install, nil
		}
	}
	if dir := os.Getenv("OUTFLOW_TEST_PG_BIN"); dir != "" {
		if _, err := inspect(dir); err != nil {
			return Install{}, fmt.Errorf("pgcluster: OUTFLOW_TEST_PG_BIN: %w", err)
		}
	}
	if version != 0 {
		return Install{}, fmt.Errorf("version %d was asked for, there are %v: %w", version, installed, ErrNotFound)
	}
	return Install{}, ErrNotFound
}

// places are the directories to look into: a list for each place of the search order.
func places() [][]string {
	if dir := os.Getenv("OUTFLOW_TEST_PG_BIN"); dir != "" {
		return [][]string{{dir}}
	}
	var all [][]string
	if path, err := exec.LookPath("postgres"); err == nil {
		all = append(all, []string{filepath.Dir(path)})
	}
	patterns := []string{"/usr/lib/postgresql/*/bin", "/var/cache/outflow/postgres/*/bin"}
	if cache, err := os.UserCacheDir(); err == nil {
		patterns = append(patterns, filepath.Join(cache, "outflow/postgres/*/bin"))
	}
	for _, pattern := range patterns {
		dirs, _ := filepath.Glob(pattern) // the only error is a bad pattern
		all = append(all, dirs)
	}
	return all
}

var versionNumber = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inspect describes the server in a directory. A link is followed, since the server looks for the other files from the
// real place of the binary, and a server on PATH must not be listed twice.
func inspect(dir string) (Install, error) {
	binary, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return Install{}, err
	}
	dir = filepath.Dir(binary)
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Install{}, err
	}
	out, err := exec.Command(binary, "--version").Output()
	if err != nil {
		return Install{}, fmt.Errorf("%s --version: %w", binary, err)
	}
	match := versionNumber.FindSubmatch(out)
	if match == nil {
		return Install{}, fmt.Errorf("%s --version: unexpected answer %q", binary, out)
	}
	version, err := strconv.Atoi(string(match[1]))
	return Install{Dir: dir, Version: version}, err
}
