package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"

	"outflow/internal/fit"
)

const (
	// MaxDepth bounds how deeply a document's values are nested.
	MaxDepth = 64
	// maxFaults bounds the faults reported of a document which is something
	// else altogether.
	maxFaults = 50
)

type decoder struct {
	doc      *Document
	lookup   func(string) (string, bool)
	faults   Errors
	expanded int // bytes of environment values put in so far
}

// Decode reads src, one YAML document, into *v. Values not named in the
// document stay in *v; a list or map named there replaces the list or map in
// *v. An empty document changes nothing.
//
// The error is nil or Errors. The Document is never nil: after an error in the
// syntax the Document has no values, after any other error all values. *v then
// holds the readable values, so the meaning can be checked in the same pass.
//
// Decode panics for an unsupported type. Supported are structs with
// `yaml:"key"` tags (fields without one are ignored), pointers, slices, maps
// with string keys, strings, bools, numbers, time.Duration, ByteSize and
// everything with UnmarshalText.
func Decode(file string, src []byte, v any, opts ...Option) (*Document, error) {
	d := &decoder{doc: &Document{file: file, lines: splitLines(src), expanded: make(map[*yaml.Node]string)}}
	for _, opt := range opts {
		opt(d)
	}
	if root := d.parse(src); root != nil {
		d.doc.root = root
		d.check(root, 1)
		d.value(root, reflect.ValueOf(v).Elem())
	}
	if len(d.faults) == 0 {
		return d.doc, nil
	}
	d.faults.Sort()
	return d.doc, d.faults
}

// fault notes a fault, and stops noting at maxFaults.
func (d *decoder) fault(line, column int, format string, args ...any) {
	if len(d.faults) > maxFaults {
		return
	}
	message := fmt.Sprintf(format, args...)
	if len(d.faults) == maxFaults {
		message = "too many faults; the rest is not shown"
	}
	line, column = d.doc.clamp(line, column)
	d.faults = append(d.faults, &Error{d.doc.file, line, column, message})
}

func (d *decoder) faultAt(n *yaml.Node, format string, args ...any) {
	d.fault(n.Line, n.Column, format, args...)
}

// parse gives the document's top value; nil for an empty document and after a
// fault in the syntax.
func (d *decoder) parse(src []byte) *yaml.Node {
	if len(src) > MaxBytes {
		d.fault(1, 1, "the document is too long; at most %s is allowed", ByteSize(MaxBytes))
		return nil
	}
	if !d.checkText(src) {
		return nil
	}
	// Duplicate keys are found here, where every duplicate gets a position.
	loader, err := yaml.NewLoader(bytes.NewReader(src), yaml.WithUniqueKeys(false),
		yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(MaxDepth))))
	if err != nil {
		d.fault(1, 1, "%v", err)
		return nil
	}
	var first, second yaml.Node
	if err := loader.Load(&first); err != nil {
		d.syntax(err)
		return nil
	}
	if err := loader.Load(&second); err == nil {
		d.faultAt(&second, "a second document starts here; only one is allowed in a file")
	} else {
		d.syntax(err)
	}
	if len(d.faults) > 0 || first.Kind != yaml.DocumentNode || len(first.Content) != 1 {
		return nil
	}
	return first.Content[0]
}

// checkText refuses the text refused by YAML's reader, but with the position
// missing there, and UTF-16, which the reader would accept.
func (d *decoder) checkText(src []byte) bool {
	for line, text := range d.doc.lines {
		if bad := strings.IndexFunc(text, forbidden); bad >= 0 {
			// IndexFunc sees U+FFFD for a broken byte, and for itself.
			r, size := utf8.DecodeRuneInString(text[bad:])
			column := utf8.RuneCountInString(text[:bad]) + 1
			if r == utf8.RuneError && size == 1 {
				d.fault(line+1, column, "this is not UTF-8 text")
				return false
			}
			if r != utf8.RuneError {
				d.fault(line+1, column, "the control character %U is not allowed", r)
				return false
			}
		}
	}
	return utf8.Valid(src)
}

func forbidden(r rune) bool {
	return r < 0x20 && r != '\t' || r == utf8.RuneError || r == 0xFFFE || r == 0xFFFF
}

// syntax notes the fault reported by YAML's own parser.
func (d *decoder) syntax(err error) {
	if errors.Is(err, io.EOF) {
		return
	}
	line, column, message := len(d.doc.lines), 1, err.Error()
	var load *yaml.LoadError
	if errors.As(err, &load) {
		message = load.Message
		if load.ContextMsg != "" {
			message = load.ContextMsg + ": " + message
		}
		if load.Mark.Line > 0 {
			line, column = load.Mark.Line, load.Mark.Column
		}
		if strings.Contains(message, "unknown anchor") {
			// The name may be a value missing its quotes.
			message = "aliases (*name) are not allowed; quote a value that starts with *"
		}
	}
	d.fault(line, column, "not valid YAML: %s", fit.Text(message, 4*quoteLimit))
}

// check refuses in the whole tree the nodes allowed for no type.
func (d *decoder) check(n *yaml.Node, depth int) {
	switch {
	case depth > MaxDepth:
		d.faultAt(n, "values are nested deeper than %d", MaxDepth)
		return
	case n.Kind == yaml.AliasNode:
		d.faultAt(n, "aliases (*name) are not allowed; quote a value that starts with *")
		return
	case n.Anchor != "":
		d.faultAt(n, "anchors (&name) are not allowed; quote a value that starts with &")
	case n.Style&yaml.TaggedStyle != 0:
		d.faultAt(n, "tags (!name) are not allowed; quote a value that starts with !")
	}
	for _, child := range n.Content {
		d.check(child, depth+1)
	}
}

// value decodes n into v. A second fault at a node refused by check would only
// be noise: nothing is said of an alias here.
func (d *decoder) value(n *yaml.Node, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode:
	case v.Kind() == reflect.Pointer && textUnmarshaler(v) == nil:
		if isNull(n) {
			v.SetZero()
			return
		}
		target := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			target.Elem().Set(v.Elem())
		}
		d.value(n, target.Elem())
		v.Set(target)
	case textUnmarshaler(v) != nil:
		d.scalar(n, v)
	case v.Kind() == reflect.Struct:
		d.structure(n, v)
	case v.Kind() == reflect.Map:
		d.mapping(n, v)
	case v.Kind() == reflect.Slice:
		d.list(n, v)
	default:
		d.scalar(n, v)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.unexpected(n, v)
		return
	}
	text, name, err := d.expand(n.Value)
	if err != nil {
		d.faultAt(n, "%v", err)
		return
	}
	if name != "" {
		d.doc.expanded[n] = quoteName(name)
	}
	err = setScalar(v, text)
	var unexpected errUnexpected
	switch {
	case err == nil:
	case errors.As(err, &unexpected) && name == "":
		d.faultAt(n, "%v, found %s", err, quote(text))
	case errors.As(err, &unexpected):
		d.faultAt(n, "%v, found the value of ${%s}", err, quoteName(name))
	case name == "":
		d.faultAt(n, "%v", err)
	default:
		// Such an error may repeat the value, in whole or in part.
		d.faultAt(n, "the value of ${%s} is not allowed here", quoteName(name))
	}
}

func (d *decoder) unexpected(n *yaml.Node, v reflect.Value) {
	found := "text"
	switch {
	case isNull(n):
		found = "no value"
	case n.Kind == yaml.MappingNode:
		found = "a mapping"
	case n.Kind == yaml.SequenceNode:
		found = "a list"
	}
	d.faultAt(n, "expected %s, found %s", describe(v), found)
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Style == 0 && n.Tag == "!!null"
}

// ReadFile reads a document from a file. Of a file that has more than MaxBytes, which Decode refuses, or no end, ReadFile returns the beginning.
func ReadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxBytes+1))
}
