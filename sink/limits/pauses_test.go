package limits

import (
	"testing"
	"time"
)

// Each pause is anything up to a bound, which doubles from the least up to the most, and begins again after a success.
func TestPauses(t *testing.T) {
	t.Parallel()
	const draws = 400 // half of a bound is missed by all draws with a probability of 2^-400
	bounds := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, time.Second, time.Second}
	p := Pauses{Least: 100 * time.Millisecond, Most: time.Second}
	least, most := make([]time.Duration, len(bounds)), make([]time.Duration, len(bounds))
	for range draws {
		for i := range bounds {
			pause := p.Next()
			if most[i] = max(most[i], pause); least[i] == 0 || pause < least[i] {
				least[i] = pause
			}
		}
		p.Reset()
	}
	for i, bound := range bounds {
		if most[i] > bound || most[i] <= bound/2 || least[i] >= bound/2 {
			t.Errorf("pause %d is between %s and %s; expected up to %s", i, least[i], most[i], bound)
		}
	}
	tight := Pauses{Least: time.Minute, Most: time.Millisecond}
	if pause := tight.Next(); pause > time.Millisecond {
		t.Errorf("a pause of %s, with the most below the least", pause)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	least, most := time.Hour, time.Duration(0)
	for range 400 {
		d := Spread(time.Second)
		least, most = min(least, d), max(most, d)
	}
	if least < time.Second/2 || most > time.Second || least > 3*time.Second/4 || most < 3*time.Second/4 {
		t.Errorf("a second is spread from %s to %s", least, most)
	}
}
