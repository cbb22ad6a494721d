package strictyaml

import (
	"cmp"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A struct of options declares each option in one place, the field:
//
//	BatchRows int `yaml:"batch_rows" default:"10000" range:"1..1000000"`
//	OnError   Mode `yaml:"on_error" default:"halt" oneof:"halt,quarantine"`
//
// Defaults sets the defaults, Check finds the values outside range and oneof. A wrong tag panics, in both.

// Field is a field with a yaml tag.
type Field struct {
	Key   string // of the tag
	Value reflect.Value
	tags  reflect.StructTag
}

// Fields gives the fields of a struct that have a yaml tag, in order. The fields of an embedded struct without a tag are among them.
func Fields(v reflect.Value) iter.Seq[Field] {
	return func(yield func(Field) bool) { walk(v, yield) }
}

func walk(v reflect.Value, yield func(Field) bool) bool {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case key == "" && f.Anonymous && f.Type.Kind() == reflect.Struct:
			if !walk(v.Field(i), yield) {
				return false
			}
		case key == "" || key == "-":
		case !yield(Field{key, v.Field(i), f.Tag}):
			return false
		}
	}
	return true
}

// Defaults sets each field of *v, a struct, that has a default tag, also in structs within.
func Defaults(v any) { defaults(reflect.ValueOf(v).Elem()) }

func defaults(v reflect.Value) {
	for f := range Fields(v) {
		if text, ok := f.tags.Lookup("default"); ok {
			f.set(f.Value, text)
		} else if f.Value.Kind() == reflect.Struct && textUnmarshaler(f.Value) == nil {
			defaults(f.Value)
		}
	}
}

// Invalid is a value that cannot be meant.
type Invalid struct {
	Key     string // of the field
	Message string // "expected 1 to 100": without the value found
}

// Check gives the fields of *v, a struct, outside their range or oneof tags, in order. Check does not look into structs within.
func Check(v any) (faults []Invalid) {
	for f := range Fields(reflect.ValueOf(v).Elem()) {
		if bounds, ok := f.tags.Lookup("range"); ok {
			least, most, _ := strings.Cut(bounds, "..")
			low, high := reflect.New(f.Value.Type()).Elem(), reflect.New(f.Value.Type()).Elem()
			f.set(low, least)
			f.set(high, most)
			if compare(f.Value, low) < 0 || compare(f.Value, high) > 0 {
				faults = append(faults, Invalid{f.Key, fmt.Sprintf("expected %s to %s", Plain(low.Interface()), Plain(high.Interface()))})
			}
		}
		if words, ok := f.tags.Lookup("oneof"); ok {
			if allowed := strings.Split(words, ","); !slices.Contains(allowed, f.Value.String()) {
				faults = append(faults, Invalid{f.Key, "expected one of " + strings.Join(allowed, ", ")})
			}
		}
	}
	return faults
}

func (f Field) set(v reflect.Value, text string) {
	if err := set(v, text); err != nil {
		panic(fmt.Sprintf("strictyaml: the tag of %s: %q: %v", f.Key, text, err))
	}
}

func compare(a, b reflect.Value) int {
	if a.CanFloat() {
		return cmp.Compare(a.Float(), b.Float())
	}
	return cmp.Compare(a.Int(), b.Int())
}

// Plain prints a value as a file has the value: 5m, not 5m0s.
func Plain(value any) string {
	text := fmt.Sprint(value)
	if _, ok := value.(time.Duration); ok {
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
	}
	return text
}
