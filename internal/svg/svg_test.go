package svg

import (
	"math"
	"testing"
)

func TestScales(t *testing.T) {
	for _, tt := range []struct {
		s        Scale
		at, want float64
	}{
		{Log(10, 10000), 10, 0}, {Log(10, 10000), 0, 0}, {Log(10, 10000), 10000, 1}, {Log(10, 10001), 100000, 1},
		{Log(10, 1), 100, 1}, {Log(1, 1000), 10, 1. / 3}, {Log(1, 0), 10, 1}, {Log(1, math.Inf(1)), 1e18, 1},
		{Linear(1000), 0, 0}, {Linear(1), 0, 0},
	} {
		if got := tt.s.At(tt.at); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("%v: %v, want %v", tt.at, got, tt.want)
		}
	}
	for most := uint64(1); most < 1e7; most = most*3 + 1 {
		s := Linear(most)
		if n := len(s.Ticks); n < 2 || n > 8 || s.Ticks[n-1] <= most-1 || s.At(float64(s.Ticks[n-1])) != 1 {
			t.Errorf("%d: ticks %v", most, s.Ticks)
		}
	}
}

func TestCoord(t *testing.T) {
	for x, want := range map[float64]string{0: "0", -0.04: "0", 1: "1", 1.26: "1.3", -2.5: "-2.5", 99.96: "100", 0.05: "0.1"} {
		if got := Coord(x); got != want {
			t.Errorf("%v: %q, want %q", x, got, want)
		}
	}
}
