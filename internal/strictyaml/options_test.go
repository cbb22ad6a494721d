package strictyaml

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type mode string

type timeouts struct {
	Wait time.Duration `yaml:"wait" default:"5m" range:"1ms..24h"`
}

type optionsUnderTest struct {
	timeouts
	Rows  int      `yaml:"rows" default:"10" range:"1..100"`
	Size  ByteSize `yaml:"size" default:"8MiB" range:"64KiB..1GiB"`
	Share float64  `yaml:"share" default:"0.5" range:"0..1"`
	Mode  mode     `yaml:"mode" default:"halt" oneof:"halt,quarantine"`
	Ports []int    `yaml:"ports" default:"5432,6432"`
	Name  string   `yaml:"name"`
	Inner struct {
		Rows int `yaml:"rows" default:"7"`
	} `yaml:"inner"`
	Other int
}

func TestOptions(t *testing.T) {
	var o optionsUnderTest
	Defaults(&o)
	if o.Wait != 5*time.Minute || o.Rows != 10 || o.Size != 8*MiB || o.Share != 0.5 || o.Mode != "halt" || o.Inner.Rows != 7 || fmt.Sprint(o.Ports) != "[5432 6432]" {
		t.Errorf("the defaults are %+v", o)
	}
	if faults := Check(&o); len(faults) > 0 {
		t.Errorf("the defaults are refused: %v", faults)
	}
	if _, err := Decode("f", []byte("wait: 3s\nrows: 0\nmode: stop\nsize: 2GiB\nshare: 1.5\n"), &o); err != nil {
		t.Fatal(err)
	}
	want := []Invalid{{"rows", "expected 1 to 100"}, {"size", "expected 64KiB to 1GiB"}, {"share", "expected 0 to 1"}, {"mode", "expected one of halt, quarantine"}}
	if diff := cmp.Diff(want, Check(&o)); diff != "" || o.Wait != 3*time.Second {
		t.Errorf("wait %s; faults (-expected +found):\n%s", o.Wait, diff)
	}
	if o.Wait = 25 * time.Hour; Check(&o)[0] != (Invalid{"wait", "expected 1ms to 24h"}) {
		t.Errorf("the embedded field gives %v", Check(&o))
	}
}

func TestWrongTagsPanic(t *testing.T) {
	for _, v := range []any{
		&struct {
			A int `yaml:"a" default:"x"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a wrong default tag was taken")
				}
			}()
			Defaults(v)
		}()
	}
}
