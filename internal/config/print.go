package config

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"outflow/internal/secret"
	"outflow/internal/strictyaml"
)

// Print writes the effective configuration as YAML, each value with where it
// came from in a comment. Of connection strings and other URLs the passwords are
// masked, other secrets are redacted; the rest loads again as the same
// configuration.
func (c *Config) Print(w io.Writer) error {
	out, err := yaml.Dump(c.node("", reflect.ValueOf(c).Elem()), yaml.WithLineWidth(-1))
	if err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// Origin tells where the value with that path came from, as Print does:
// "default", "file outflow.yaml:12", "environment OUTFLOW_X" or "flag --x".
func (c *Config) Origin(path string) string {
	if from, ok := c.origins[path]; ok {
		return from.short
	}
	if c.doc == nil || !c.doc.Has(path) {
		return "default"
	}
	line, _ := c.doc.At(path)
	file := strings.Map(func(r rune) rune {
		if r < ' ' || r == '\u0085' || r == '\u2028' || r == '\u2029' {
			return '?' // a line break would end the comment
		}
		return r
	}, c.file)
	return fmt.Sprintf("file %s:%d", file, line)
}

func (c *Config) node(path string, v reflect.Value) *yaml.Node {
	switch {
	case isScalar(v):
		return c.scalarNode(path, v)
	case v.Kind() == reflect.Pointer && v.IsNil():
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null", LineComment: c.Origin(path)}
	case v.Kind() == reflect.Pointer:
		return c.node(path, v.Elem())
	case v.Kind() == reflect.Slice:
		return c.listNode(path, v)
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	for f := range strictyaml.Fields(v) {
		at := strings.TrimPrefix(path+"."+f.Key, ".")
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.Key}, c.node(at, f.Value))
	}
	return n
}

func (c *Config) listNode(path string, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range v.Len() {
		n.Content = append(n.Content, c.node(fmt.Sprintf("%s[%d]", path, i), v.Index(i)))
	}
	if v.Len() == 0 || isScalar(v.Index(0)) {
		n.Style, n.LineComment = yaml.FlowStyle, c.Origin(path)
		for _, item := range n.Content {
			item.LineComment = "" // a comment would break the line
		}
	}
	return n
}

func (c *Config) scalarNode(path string, v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, LineComment: c.Origin(path)}
	switch value := v.Interface().(type) {
	case secret.Text:
		n.Value = secret.Redacted
		if value.IsZero() {
			n.Value = ""
		} else if path == "dsn" || strings.HasSuffix(path, ".dsn") {
			n.Value = secret.RedactDSN(value.Reveal())
		}
	case encoding.TextMarshaler:
		text, _ := value.MarshalText()
		n.Value = string(text)
	case string:
		if n.Value = secret.Mask(value); path == "tracing.endpoint" {
			n.Value = secret.RedactURL(value)
		}
	default:
		n.Value = strictyaml.Plain(value)
	}
	if v.Kind() == reflect.String || v.Kind() == reflect.Struct {
		n.Tag = "!!str"
	}
	return n
}
