package config

import (
	"encoding"
	"reflect"
	"strings"

	"outflow/internal/secret"
	"outflow/internal/strictyaml"
)

// setting is a value which a flag and an environment variable can give: a
// scalar or a list of scalars, in sections. Lists of sections, and optional
// sections, are for the file alone.
type setting struct {
	path    string // source.dsn
	pointer any    // to the field
}

// variable is the name of the setting's environment variable.
func (s setting) variable() string {
	return "OUTFLOW_" + strings.ToUpper(strings.ReplaceAll(s.path, ".", "_"))
}

// secret tells whether the setting can be given by a file of its own.
func (s setting) secret() bool {
	_, ok := s.pointer.(*secret.Text)
	return ok
}

// settingsOf gives the settings of a configuration, in the configuration's own order.
func settingsOf(c *Config) []setting {
	var settings []setting
	walkSettings("", reflect.ValueOf(c).Elem(), &settings)
	return settings
}

func walkSettings(prefix string, v reflect.Value, settings *[]setting) {
	for f := range strictyaml.Fields(v) {
		path, field := prefix+f.Key, f.Value
		switch {
		case isScalar(field):
		case field.Kind() == reflect.Slice && isScalar(reflect.New(field.Type().Elem()).Elem()):
		case field.Kind() == reflect.Struct:
			walkSettings(path+".", field, settings)
			continue
		default:
			continue
		}
		*settings = append(*settings, setting{path, field.Addr().Interface()})
	}
}

// isScalar tells whether an addressable value is written as a single word.
func isScalar(v reflect.Value) bool {
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return true
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Slice, reflect.Map:
		return false
	}
	return true
}
