package mapping

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"outflow/internal/strictyaml"
)

// Set is a collection of mappings by name. A later mapping with the same name replaces an earlier one, so that an operator can put his own
// in the place of a default. A Set is not safe for concurrent change.
type Set map[string]*Mapping

// LoadFS adds the *.yaml and *.yml files at the top of a file system.
func (s Set) LoadFS(files fs.FS, label string) error {
	names, err := fs.Glob(files, "*.y*ml")
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		src, err := fs.ReadFile(files, name)
		if err == nil {
			err = s.add(filepath.Join(label, name), src)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// LoadPath adds a file, or the files of a directory.
func (s Set) LoadPath(path string) error {
	stat, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("mappings: %w", err)
	}
	if stat.IsDir() {
		return s.LoadFS(os.DirFS(path), path)
	}
	src, err := strictyaml.ReadFile(path)
	if err != nil {
		return fmt.Errorf("mappings: %w", err)
	}
	return s.add(path, src)
}

// add loads one file. A mapping with the name of another one takes its place.
func (s Set) add(file string, src []byte) error {
	m, err := Load(file, src)
	if err != nil {
		return err
	}
	s[m.Name] = m
	return nil
}

// With is the set and more. A mapping of more hides the mapping of the same name in the set.
func (s Set) With(more []*Mapping) Set {
	all := maps.Clone(s)
	for _, m := range more {
		all[m.Name] = m
	}
	return all
}

// Order returns the named mappings so that each comes after the mappings in its "after". Names in "after" which are not among the chosen
// ones are no constraint: the destination does without the mappings. No names means every mapping of defaults.
func (s Set) Order(names []string) ([]*Mapping, error) {
	var ordered []*Mapping
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, path []string) error
	visit = func(name string, path []string) error {
		if state[name] == done {
			return nil
		}
		if state[name] == visiting {
			return fmt.Errorf("mappings depend on each other in a circle: %s", strings.Join(append(path, name), " after "))
		}
		m, ok := s[name]
		if !ok {
			return fmt.Errorf("there is no mapping %q; there are: %s", name, strings.Join(s.Names(), ", "))
		}
		state[name] = visiting
		for _, before := range m.After {
			if slices.Contains(names, before) {
				if err := visit(before, append(path, name)); err != nil {
					return err
				}
			}
		}
		state[name] = done
		ordered = append(ordered, m)
		return nil
	}
	for _, name := range names {
		if err := visit(name, nil); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// Names are the names of all mappings, sorted.
func (s Set) Names() []string {
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
