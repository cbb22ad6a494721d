package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"outflow/internal/config"
	"outflow/internal/secret"
)

// documents are the texts with names of tests and of options.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	texts := map[string]string{}
	for _, file := range append(files, "../../SECURITY.md") {
		text, err := os.ReadFile(file)
		must(t, err)
		texts[filepath.Base(file)] = string(text)
	}
	if texts["guarantees.md"] == "" {
		t.Fatal("docs has no guarantees.md")
	}
	return texts
}

// tests are the names of the tests and of the fuzz targets, by package.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	must(t, filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		name := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), "../../"))
		for _, m := range declared.FindAllSubmatch(text, -1) {
			found[name] = append(found[name], string(m[1]))
		}
		return err
	}))
	return found
}

// Each test named in a document exists, in the package before the name.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	all := tests(t)
	named := regexp.MustCompile("`((?:cmd|internal|admin|deploy|mapping|replication|sink)[\\w/]*)`:|\\b((?:Test|Fuzz)[A-Z]\\w*)")
	for file, text := range documents(t) {
		in := ""
		for line := range strings.SplitSeq(text, "\n") {
			if line == "" || strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "|") {
				in = "" // a package counts for its own list
			}
			for _, m := range named.FindAllStringSubmatch(line, -1) {
				switch name := m[2]; {
				case m[1] != "" && all[m[1]] == nil:
					t.Errorf("%s: package %s has no tests", file, m[1])
				case m[1] != "":
					in = m[1]
				case in != "" && !slices.Contains(all[in], name):
					t.Errorf("%s: %s has no %s", file, in, name)
				case in == "" && !slices.ContainsFunc(values(all), func(of []string) bool { return slices.Contains(of, name) }):
					t.Errorf("%s: there is no %s", file, name)
				}
			}
		}
	}
}

func values(of map[string][]string) (all [][]string) {
	for _, v := range of {
		all = append(all, v)
	}
	return all
}

// Each option named in a document exists, with the value in brackets as the default, and so does each target of make.
func TestDocumentsNameOptionsThatExist(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Source.DSN = secret.New("postgres://u@h/d")
	var printed strings.Builder
	must(t, cfg.Print(&printed))
	defaults, path := map[string]string{}, []string{}
	for _, m := range regexp.MustCompile(`(?m)^( *)(\w+):(?: (.*?))?(?: # .*)?$`).FindAllStringSubmatch(printed.String(), -1) {
		path = append(path[:min(len(path), len(m[1])/2)], m[2])
		defaults[strings.Join(path, ".")] = m[3]
	}
	makefile, err := os.ReadFile("../../Makefile")
	must(t, err)
	option := regexp.MustCompile("`((?:source|destinations|sink|admin|tracing|log)\\.[a-z_.]+)`(?:,? \\((\\w[^)]*)\\))?")
	for file, text := range documents(t) {
		for _, m := range option.FindAllStringSubmatch(text, -1) {
			value, ok := defaults[m[1]]
			switch {
			case !ok:
				t.Errorf("%s: there is no option %s", file, m[1])
			case m[2] != "" && m[2] != value:
				t.Errorf("%s: the default of %s is %q, not %q", file, m[1], value, m[2])
			}
		}
		for _, m := range regexp.MustCompile("`make ([\\w/]+)").FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
				t.Errorf("%s: there is no make %s", file, m[1])
			}
		}
	}
}
