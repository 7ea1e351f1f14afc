package detect

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestDistinct(t *testing.T) {
	for _, n := range []int{0, 1, 63, exactMost, exactMost + 1, 5000, 20_000, 1_000_000} {
		r := rand.New(rand.NewPCG(3, uint64(n)))
		c, again := distinct{seed: 1}, distinct{seed: 2}
		for range n {
			h := sketchHash(v4(r.IntN(256), r.IntN(256), r.IntN(256), r.IntN(256)))
			c.add(h)
			c.add(h)
			again.add(h)
		}
		got := c.count()
		if c.estimated() != (n > exactMost) {
			t.Errorf("%d: estimated %v", n, c.estimated())
		}
		// collisions of random addresses: n^2/2^33
		truth := float64(n) - float64(n)*float64(n)/(1<<33)
		if miss := math.Abs(float64(got)-truth) / max(1, truth); n <= exactMost && got != uint64(n) || miss > .07 {
			t.Errorf("%d: counts %d", n, got)
		}
		if again.count() != got {
			t.Errorf("%d: %d with another seed, %d", n, again.count(), got)
		}
	}
}

func TestHeavy(t *testing.T) {
	var v heavy
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 30_000 {
		if i%3 == 0 {
			v.add(7, 1, victim)
		} else {
			v.add(r.Uint64(), 1, v4(1, 2, 3, 4))
		}
	}
	k, a, share := v.top()
	if k != 7 || a != victim || share > 1./3+.001 || share < 1./3-1./(heavies+1) {
		t.Errorf("top is %d %s with %.3f, want 7 with .333 or up to 1/17 less", k, a, share)
	}
}

// TestAverage holds the averages against seconds taken one by one.
func TestAverage(t *testing.T) {
	one, skip := front{}, front{}
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		gap := 1 + r.IntN(20)
		x := float32(r.IntN(50))
		one.average(x, x/2, 1)
		skip.average(x, x/2, uint32(gap))
		for range gap - 1 {
			one.average(0, 0, 1)
		}
		if math.Abs(float64(one.good-skip.good)) > .02*float64(one.good)+1e-6 || one.ticks < skip.ticks {
			t.Fatalf("%v over %d ticks, one by one %v over %d", skip.good, skip.ticks, one.good, one.ticks)
		}
	}
}
