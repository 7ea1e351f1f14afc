package capture

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/cputime"
)

// TestCost: to record an event costs what the issue allows, .3 us of the machine that was
// measured on. There zstd alone takes some 95 ns for it. What else the machine does only
// makes either dearer: the least of each is compared.
func TestCost(t *testing.T) {
	const most = 300. / 95
	events := gateway(1 << 18)
	enc, err := newEncoder()
	must(t, err)
	var bodies [][]byte
	w := newBatchWriter()
	for part := range slices.Chunk(events, chunkEvents) {
		bodies = append(bodies, w.append(nil, part))
	}
	var stored []byte
	zstd := func() {
		for _, b := range bodies {
			stored = enc.EncodeAll(b, stored[:0])
		}
	}
	cost := func(fn func()) time.Duration {
		runtime.GC() // of what was before
		began := cputime.Process()
		fn()
		return cputime.Process() - began
	}
	alone, all := cost(zstd), cost(func() { record(t, null{}, events) })
	for range 8 {
		alone, all = min(alone, cost(zstd)), min(all, cost(func() { record(t, null{}, events) }))
	}
	if got := float64(all) / float64(alone); got > most {
		t.Errorf("to record costs %.2f times what zstd does, at most %.2f is allowed", got, most)
	} else {
		t.Logf("%.2f times what zstd does", got)
	}
}
