package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"outflow/internal/strictyaml"
)

// LoadOptions say where the configuration is read from.
type LoadOptions struct {
	// File is a YAML file; "": there is none.
	File string
	// Flags are values by their dotted path, such as sink.batch_rows. A list of
	// scalars is comma separated.
	Flags map[string]string
	// Env looks up an environment variable; nil is os.LookupEnv.
	Env func(name string) (string, bool)
	// Environ lists the environment as os.Environ does, to find variables
	// OUTFLOW_* without a meaning. nil is os.Environ where Env is nil too, else
	// the empty list.
	Environ func() []string
}

// Error is a fault in a value from outside the file.
type Error struct {
	Where   string // "environment variable OUTFLOW_X", "flag --x.y", or a path
	Message string
}

// Error gives "where: message".
func (e *Error) Error() string { return e.Where + ": " + e.Message }

// Fault marks an error that a person removes by correcting the configuration: the command ends with exit code 2, and trying
// again is of no use.
type Fault struct{ Err error }

// Error gives the text of the error within.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap gives the error within.
func (f *Fault) Unwrap() error { return f.Err }

// Faultf makes a [Fault], with a text as by [fmt.Errorf].
func Faultf(format string, args ...any) error { return &Fault{fmt.Errorf(format, args...)} }

// IsFault reports whether a [Fault] is among the errors that err wraps.
func IsFault(err error) bool {
	f := (*Fault)(nil)
	return errors.As(err, &f)
}

// origin is where a value came from, if not from the file.
type origin struct {
	where string // for an error
	short string // for Print
}

type loader struct {
	LoadOptions
	config *Config
	used   map[string]bool // the variables named in the file
	inFile strictyaml.Errors
	fromPG bool // source.dsn is made of PG* variables alone
	noFile bool // a secret's own file could not be read or used: a missing value is no news
	faults []error
}

// Load reads, completes and checks the configuration. The error is a *Fault. It
// joins a *strictyaml.Error for each fault in the file and an *Error for each
// other fault; errors.As finds the first of each.
func Load(opts LoadOptions) (*Config, error) {
	if opts.Env == nil {
		opts.Env = os.LookupEnv
		if opts.Environ == nil {
			opts.Environ = os.Environ
		}
	}
	l := &loader{LoadOptions: opts, config: Default(), used: make(map[string]bool)}
	l.config.origins = make(map[string]origin)
	if err := l.readFile(); err != nil {
		return nil, &Fault{err}
	}
	settings := settingsOf(l.config)
	l.readEnvironment(settings)
	l.readFlags(settings)
	l.readAmbientDSN()
	l.completeDSN()
	l.checkNames(settings)
	l.validate()

	l.inFile.Sort()
	all := append(l.inFile.Unwrap(), l.faults...)
	if len(all) > 0 {
		return nil, &Fault{errors.Join(all...)}
	}
	return l.config, nil
}

// readFile fails only where there is nothing to go on with.
func (l *loader) readFile() error {
	var src []byte
	if l.File != "" {
		var err error
		if src, err = strictyaml.ReadFile(l.File); err != nil {
			return &Error{"flag --config", err.Error()}
		}
	}
	c := l.config
	doc, err := strictyaml.Decode(l.File, src, c, strictyaml.WithEnv(l.lookup))
	c.doc, c.file = doc, l.File
	if err != nil && !errors.As(err, &l.inFile) {
		return err
	}
	if len(l.inFile) > 0 && !doc.Has("") {
		return l.inFile // not YAML: every other fault follows from the syntax
	}
	// The default tombstones belong to the default tables.
	if doc.Has("source.tables") && !doc.Has("source.tombstones") {
		c.Source.Tombstones = nil
	}
	for i := range c.Destinations.Static {
		if s := &c.Destinations.Static[i]; !doc.Has(fmt.Sprintf("destinations.static[%d].name", i)) {
			s.Name = "main"
		}
	}
	return nil
}

// lookup gives the value of ${NAME}: of NAME, or of the file named by
// NAME_FILE.
func (l *loader) lookup(name string) (string, bool) {
	l.used[name], l.used[name+"_FILE"] = true, true
	if value, ok := l.Env(name); ok {
		return value, true
	}
	return l.secretFile(name + "_FILE")
}

// secretFile reads the file named by a variable, less a single line end.
func (l *loader) secretFile(variable string) (string, bool) {
	path, ok := l.Env(variable)
	if !ok {
		return "", false
	}
	content, err := os.ReadFile(path)
	if err != nil {
		l.noFile = true
		l.fault(&Error{"environment variable " + variable, err.Error()})
		return "", true
	}
	value := strings.TrimSuffix(string(content), "\n")
	return strings.TrimSuffix(value, "\r"), true
}

// fault notes a fault once: two values may name the same unreadable file.
func (l *loader) fault(e *Error) {
	same := func(err error) bool { return err.Error() == e.Error() }
	if !slices.ContainsFunc(l.faults, same) {
		l.faults = append(l.faults, e)
	}
}

// faultAt notes a fault in the value with the path, at the origin of the value.
func (l *loader) faultAt(path, format string, args ...any) {
	if from, ok := l.config.origins[path]; ok {
		l.fault(&Error{from.where, fmt.Sprintf(format, args...)})
		return
	}
	section, _, _ := strings.Cut(path, "[")
	if !l.config.doc.Has(section) {
		l.fault(&Error{path, fmt.Sprintf(format, args...)})
		return
	}
	if !l.config.doc.Has(path) { // the value is missing in a list's item: the position alone does not tell which
		format = path[strings.LastIndexByte(path, '.')+1:] + ": " + format
	}
	at := l.config.doc.Errorf(path, format, args...)
	// An unreadable value has a fault already.
	same := func(e *strictyaml.Error) bool { return e.Line == at.Line && e.Column == at.Column }
	if l.config.doc.Has(path) && slices.ContainsFunc(l.inFile, same) {
		return
	}
	l.inFile = append(l.inFile, at)
}

func (l *loader) readEnvironment(settings []setting) {
	for _, s := range settings {
		name := s.variable()
		value, ok := l.Env(name)
		if s.secret() {
			file := name + "_FILE"
			if fromFile, both := l.secretFile(file); both {
				if ok {
					l.noFile = true
					l.fault(&Error{"environment variable " + file, name + " is set too; only one of them is allowed"})
					continue
				}
				name, value, ok = file, fromFile, true
			}
		}
		if ok {
			l.set(s, value, origin{"environment variable " + name, "environment " + name})
		}
	}
}

func (l *loader) readFlags(settings []setting) {
	paths := make([]string, 0, len(l.Flags))
	for path := range l.Flags {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		i := slices.IndexFunc(settings, func(s setting) bool { return s.path == path })
		if i < 0 {
			known := make([]string, len(settings))
			for i, s := range settings {
				known[i] = s.path
			}
			l.fault(&Error{"flag --" + path, "unknown setting" + didYouMean(path, known)})
			continue
		}
		l.set(settings[i], l.Flags[path], origin{"flag --" + path, "flag --" + path})
	}
}

func (l *loader) set(s setting, value string, from origin) {
	l.config.origins[s.path] = from
	if err := strictyaml.Set(s.pointer, value); err != nil {
		l.fault(&Error{from.where, fmt.Sprintf("%v, found %q", err, value)})
	}
}

// injected are the variables put into every pod by Kubernetes for services
// called outflow or outflow-something.
var injected = regexp.MustCompile(`^OUTFLOW_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_[0-9]+_.*)?)$`)

// checkNames refuses OUTFLOW_ variables nothing reads: a misspelt variable
// would go unnoticed otherwise.
func (l *loader) checkNames(settings []setting) {
	if l.Environ == nil {
		return
	}
	known := []string{"OUTFLOW_CONFIG"}
	for _, s := range settings {
		known = append(known, s.variable())
		if s.secret() {
			known = append(known, s.variable()+"_FILE")
		}
	}
	environ := slices.Sorted(slices.Values(l.Environ()))
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "OUTFLOW_") || strings.HasPrefix(name, "OUTFLOW_TEST_") ||
			l.used[name] || slices.Contains(known, name) || injected.MatchString(name) {
			continue
		}
		l.fault(&Error{"environment variable " + name, "unknown setting" + didYouMean(name, known)})
	}
}

func didYouMean(name string, known []string) string {
	if near := strictyaml.Nearest(name, known); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return "; known are " + strings.Join(known, ", ")
}
