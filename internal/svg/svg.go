// Package svg has what our drawings share: scales, coordinates, outlines. It knows
// nothing of what is drawn.
package svg

import (
	"math"
	"strconv"
)

// Scale places values between 0 (bottom) and 1 (top).
type Scale struct {
	At    func(float64) float64
	Ticks []uint64
}

// Log goes from low, a power of ten, to the first power of ten that is at least
// most; what is less than low lies on the bottom.
func Log(low uint64, most float64) Scale {
	from := math.Round(math.Log10(float64(low)))
	decades := max(1, math.Ceil(math.Log10(math.Min(most, 1e18)))-from)
	s := Scale{At: func(n float64) float64 {
		if n <= float64(low) {
			return 0
		}
		return (math.Log10(n) - from) / decades
	}}
	for i, n := 0.0, low; i <= decades; i, n = i+1, n*10 {
		s.Ticks = append(s.Ticks, n)
	}
	return s
}

// Linear goes from 0 to a round number above most.
func Linear(most uint64) Scale {
	step := Step(most)
	end := (most + step/5 + step - 1) / step * step
	s := Scale{At: func(n float64) float64 { return n / float64(end) }}
	for n := uint64(0); n <= end; n += step {
		s.Ticks = append(s.Ticks, n)
	}
	return s
}

// Step is 1, 2 or 5 times a power of ten, two to five of them to most.
func Step(most uint64) uint64 {
	for p := uint64(1); ; p *= 10 {
		for _, m := range []uint64{1, 2, 5} {
			if most/(m*p) <= 5 {
				return m * p
			}
		}
	}
}

// AppendCoord writes a coordinate with one decimal, so that drawings are short.
func AppendCoord(b []byte, x float64) []byte {
	r := math.Round(x * 10)
	if n := int64(r); n%10 == 0 { // most are whole
		return strconv.AppendInt(b, n/10, 10)
	}
	return strconv.AppendFloat(b, r/10, 'f', -1, 64)
}

// Coord is AppendCoord as a string.
func Coord(x float64) string { return string(AppendCoord(nil, x)) }

// Levels of a Ladder.
const Levels = 6

// Ladder are the levels of a picture: the lowest counts from which each begins,
// 1, 3, 10, 30 and so on up to the highest there is.
type Ladder [Levels]float64

// NewLadder has most in its highest level.
func NewLadder(most float64) (l Ladder) {
	top := 0
	for rung(top+1) <= most {
		top++
	}
	for i := range l {
		l[i] = rung(max(top, Levels-1) - Levels + 1 + i)
	}
	return l
}

// rung is 1, 3, 10, 30, ...
func rung(i int) float64 {
	n := math.Pow10(i / 2)
	if i%2 == 1 {
		n *= 3
	}
	return n
}

// Level is -1 for nothing; what is below the lowest counts as that.
func (l *Ladder) Level(n float64) int {
	if n <= 0 {
		return -1
	}
	for i := Levels - 1; i > 0; i-- {
		if n >= l[i] {
			return i
		}
	}
	return 0
}
