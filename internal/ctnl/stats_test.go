package ctnl

import (
	"errors"
	"math"
	"slices"
	"testing"
)

// statsMessage makes a message by hand with the given counters.
func statsMessage(cpu uint16, n map[uint16]uint32) message {
	m := message{typ: typeStatsCPU, data: []byte{0, 0, byte(cpu >> 8), byte(cpu)}}
	for typ := range uint16(20) {
		if v, ok := n[typ]; ok {
			m.data = append(m.data, attr(typ, []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})...)
		}
	}
	return m
}

func TestDecodeStats(t *testing.T) {
	all := map[uint16]uint32{2: 1, 4: 2, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 8, 14: 9, 15: 10}
	k510 := map[uint16]uint32{2: 1, 4: 2, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 8, 14: 0}
	k54 := map[uint16]uint32{2: 1, 4: 2, 5: 99, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: math.MaxUint32}
	for _, tc := range []struct {
		name    string
		in      message
		want    CPUStats
		missing []Counter
	}{
		{"6.1", statsMessage(0, all), CPUStats{CPU: 0, N: [NumCounters]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}, nil},
		{"5.10", statsMessage(300, k510), CPUStats{CPU: 300, N: [NumCounters]uint32{1, 2, 3, 4, 5, 6, 7, 8}}, []Counter{StatChainTooLong}},
		{"5.4", statsMessage(1, k54), CPUStats{CPU: 1, N: [NumCounters]uint32{1, 2, 3, 4, 5, 6, 7, math.MaxUint32}}, []Counter{StatClashResolve, StatChainTooLong}},
	} {
		for c := range NumCounters {
			if !slices.Contains(tc.missing, c) {
				tc.want.Known |= 1 << c
			}
		}
		var s CPUStats
		if err := decodeStats(tc.in, &s); err != nil || s != tc.want {
			t.Errorf("%s: %v\n got %+v\nwant %+v", tc.name, err, s, tc.want)
		}
		for _, c := range tc.missing {
			if n, ok := s.Get(c); ok || n != 0 {
				t.Errorf("%s: %v is %d, %v", tc.name, c, n, ok)
			}
		}
	}
	for name, data := range map[string][]byte{
		"short header":    {0, 0, 0},
		"short counter":   join([]byte{0, 0, 0, 0}, attr(10, []byte{1, 2})),
		"short attribute": {0, 0, 0, 0, 1, 0, 10, 0},
	} {
		var s CPUStats
		if err := decodeStats(message{data: data}, &s); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSumSub(t *testing.T) {
	const known = 1<<NumCounters - 1
	cpu := func(n uint16, found, drop uint32) CPUStats {
		s := CPUStats{CPU: n, Known: known}
		s.N[StatFound], s.N[StatDrop] = found, drop
		return s
	}
	old := []CPUStats{cpu(0, math.MaxUint32, 5), cpu(1, 1, 1), cpu(2, 7, 7)}
	// CPU 0 wrapped, 1 stood still, 2 went away, 3 came.
	now := []CPUStats{cpu(0, 1, 6), cpu(1, 1, 1), cpu(3, 10, 0)}
	now[1].Known &^= 1 << StatChainTooLong
	d := Sub(now, old)
	want := []CPUStats{cpu(0, 2, 1), cpu(1, 0, 0), cpu(3, 10, 0)}
	want[1].Known = now[1].Known
	if !slices.Equal(d, want) {
		t.Errorf("\n got %+v\nwant %+v", d, want)
	}
	sum := Sum(d)
	if n, ok := sum.Get(StatFound); n != 12 || !ok {
		t.Errorf("found %d %v", n, ok)
	}
	if _, ok := sum.Get(StatChainTooLong); ok {
		t.Error("a counter that one CPU lacks is known in the sum")
	}
	if big := Sum([]CPUStats{cpu(0, math.MaxUint32, 0), cpu(1, math.MaxUint32, 0)}); big.N[StatFound] != 2*math.MaxUint32 {
		t.Errorf("the sum wraps: %d", big.N[StatFound])
	}
	if n := Sum(nil); n != (Totals{}) {
		t.Errorf("%+v", n)
	}
	if d := Sub(now, nil); !slices.Equal(d, now) {
		t.Errorf("from nothing: %+v", d)
	}
}

func TestDecodeFill(t *testing.T) {
	count := attr(ctaStatsEntries, []byte{0, 0, 1, 2})
	limit := attr(ctaStatsMaxEntries, []byte{0, 4, 0, 0})
	for _, tc := range []struct {
		name string
		data []byte
		want Fill
		full bool
		err  error
	}{
		{"both", join([]byte{0, 0, 0, 0}, count, limit, attr(3, []byte("x"))), Fill{258, 262144}, true, nil},
		{"before 4.18", join([]byte{0, 0, 0, 0}, count), Fill{258, 0}, false, nil},
		{"short", join([]byte{0, 0, 0, 0}, attr(1, []byte{1})), Fill{}, false, ErrMalformed},
		{"cut", []byte{0, 0, 0, 0, 8, 0}, Fill{}, false, ErrMalformed},
	} {
		f, full, err := decodeFill(message{data: tc.data})
		if f != tc.want || full != tc.full || !errors.Is(err, tc.err) {
			t.Errorf("%s: %+v %v %v", tc.name, f, full, err)
		}
	}
}

func TestCounterNames(t *testing.T) {
	seen := map[string]bool{}
	for c := range NumCounters {
		seen[c.String()] = true
	}
	if len(seen) != int(NumCounters) || seen[""] || Counter(99).String() != "counter99" {
		t.Errorf("%v", seen)
	}
}
