package strictyaml

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

var durationType = reflect.TypeFor[time.Duration]()

// Set reads text into *v, a value of any scalar type known to Decode, or a
// slice of scalars (comma separated, spaces around an item dropped, "" gives an
// empty slice). The error names the allowed values but has no position and does
// not repeat text. Set panics for any other type.
func Set(v any, text string) error { return set(reflect.ValueOf(v).Elem(), text) }

func set(v reflect.Value, text string) error {
	if v.Kind() != reflect.Slice || textUnmarshaler(v) != nil {
		return setScalar(v, text)
	}
	list := reflect.MakeSlice(v.Type(), 0, 0)
	if strings.TrimSpace(text) != "" {
		for item := range strings.SplitSeq(text, ",") {
			element := reflect.New(v.Type().Elem()).Elem()
			if err := setScalar(element, strings.TrimSpace(item)); err != nil {
				return err
			}
			list = reflect.Append(list, element)
		}
	}
	v.Set(list)
	return nil
}

// errUnexpected is a scalar of the wrong form: the text is "expected ...", and
// the caller can add the text found.
type errUnexpected string

func (e errUnexpected) Error() string { return string(e) }

// setScalar reads text as v's type says. The built-in types give errUnexpected.
func setScalar(v reflect.Value, text string) error {
	if u := textUnmarshaler(v); u != nil {
		err := u.UnmarshalText([]byte(text))
		if errors.Is(err, errSize) {
			return errUnexpected(errSize.Error())
		}
		return err
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errUnexpected("expected a duration such as 5m, 30s or 100ms")
		}
		v.SetInt(int64(d))
		return nil
	}
	return setBasic(v, text)
}

func setBasic(v reflect.Value, text string) error {
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return setScalar(v.Elem(), text)
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return errUnexpected("expected true or false")
		}
		v.SetBool(text == "true")
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return numberError(err, v)
		}
		v.SetInt(n)
	case v.CanUint():
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return numberError(err, v)
		}
		v.SetUint(n)
	case v.CanFloat():
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil {
			return errUnexpected("expected a number such as 0.5")
		}
		v.SetFloat(f)
	default:
		panic(fmt.Sprintf("strictyaml: a field of type %s cannot be decoded", v.Type()))
	}
	return nil
}

func numberError(err error, v reflect.Value) error {
	if v.CanUint() {
		return errUnexpected(fmt.Sprintf("expected an integer from 0 to %d", uint64(math.MaxUint64)>>(64-v.Type().Bits())))
	}
	if errors.Is(err, strconv.ErrRange) {
		return errUnexpected(fmt.Sprintf("expected an integer that fits %d bits", v.Type().Bits()))
	}
	return errUnexpected("expected an integer such as 100")
}

// textUnmarshaler gives v's own UnmarshalText, or nil.
func textUnmarshaler(v reflect.Value) encoding.TextUnmarshaler {
	if !v.CanAddr() {
		return nil
	}
	u, _ := v.Addr().Interface().(encoding.TextUnmarshaler)
	return u
}

// describe names the values of a type, for a value which is no scalar at all.
func describe(v reflect.Value) string {
	switch {
	case textUnmarshaler(v) != nil:
		return "a single value"
	case v.Type() == durationType:
		return "a duration such as 5m"
	case v.Kind() == reflect.Pointer:
		return describe(reflect.New(v.Type().Elem()).Elem())
	case v.Kind() == reflect.Struct, v.Kind() == reflect.Map:
		return "a mapping (key: value)"
	case v.Kind() == reflect.Slice:
		return "a list"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.CanInt(), v.CanUint():
		return "an integer"
	case v.CanFloat():
		return "a number"
	}
	return "text"
}
