package strictyaml

import (
	"fmt"
	"reflect"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// structure decodes a mapping into a struct's tagged fields.
func (d *decoder) structure(n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		return // a section whose every line is a comment
	}
	fields, names := tagged(v)
	d.entries(n, v, func(key string, at, value *yaml.Node) {
		if field, ok := fields[key]; ok {
			d.value(value, field)
			return
		}
		hint := ""
		if near := Nearest(key, names); near != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", near)
		}
		d.faultAt(at, "unknown key %s%s; allowed here: %s", quote(key), hint, strings.Join(names, ", "))
	})
}

// tagged gives a struct's fields by the name in their yaml tag, and the names
// in their order in the struct.
func tagged(v reflect.Value) (fields map[string]reflect.Value, names []string) {
	fields = make(map[string]reflect.Value)
	for f := range Fields(v) {
		fields[f.Key] = f.Value
		names = append(names, f.Key)
	}
	return fields, names
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		v.SetZero()
		return
	}
	m := reflect.MakeMap(v.Type())
	d.entries(n, v, func(key string, _, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(value, element)
		m.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), element)
	})
	v.Set(m)
}

// entries calls f for every key of a mapping, and notes keys that are given
// twice or are no text.
func (d *decoder) entries(n *yaml.Node, v reflect.Value, f func(key string, at, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.unexpected(n, v)
		return
	}
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		at, value := n.Content[i], n.Content[i+1]
		if at.Kind != yaml.ScalarNode || isNull(at) {
			if at.Kind != yaml.AliasNode {
				d.faultAt(at, "expected a key that is plain text")
			}
			continue
		}
		if line, ok := lines[at.Value]; ok {
			d.faultAt(at, "duplicate key %s; it was given in line %d", quote(at.Value), line)
			continue
		}
		lines[at.Value] = at.Line
		f(at.Value, at, value)
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value) {
	if isNull(n) {
		v.SetZero()
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.unexpected(n, v)
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, list.Index(i))
	}
	v.Set(list)
}
