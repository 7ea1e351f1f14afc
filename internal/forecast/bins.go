package forecast

import (
	"math"
	"math/bits"
	"time"
)

// Bins is the number of age bins, three per doubling: bin 0 is below 1 ms, bin
// i from 1 ms * 2^((i-1)/3) on, the last one is open (from 12 days on).
const Bins = 92

// settled is the first bin of a second or more. An entry that dies younger
// never weighs: it is taken from the arrivals.
var settled = Bin(time.Second)

// Bin returns the bin of an age.
func Bin(age time.Duration) int {
	if age < time.Millisecond {
		return 0
	}
	o := bits.Len64(uint64(age/time.Millisecond)) - 1 // doublings
	rest := float64(age) / float64(time.Millisecond<<o)
	b := 1 + 3*o
	if rest >= 1.5874010519681994 { // 2^(2/3)
		b += 2
	} else if rest >= 1.2599210498948732 { // 2^(1/3)
		b++
	}
	return min(b, Bins-1)
}

// edges are the lower ends of the bins in seconds; one more is the upper end
// given to the open bin.
var edges = func() (e [Bins + 1]float64) {
	for i := 1; i <= Bins; i++ {
		e[i] = 1e-3 * math.Pow(2, float64(i-1)/3)
	}
	return e
}()

// BinAge returns the middle of a bin.
func BinAge(i int) time.Duration {
	i = max(0, min(i, Bins-1))
	return seconds((edges[i] + edges[i+1]) / 2)
}

// seconds converts, and cuts at Never what a Duration cannot hold.
func seconds(s float64) time.Duration {
	if !(s < Never.Seconds()) {
		return Never
	}
	return time.Duration(s * float64(time.Second))
}
