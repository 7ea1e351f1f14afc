package feed

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/cputime"
)

// R19: fifty thousand addresses in less than 100 ms. What is told is the time of this
// process on a CPU, kernel and all: the machine has other things to do.
func BenchmarkFiftyThousand(b *testing.B) {
	l := newPlace(b)
	table, now := l.table(), time.Now()
	r := &Ruleset{Hook: "prerouting", Action: "drop"}
	for i := range 50_000 {
		r.Block = append(r.Block, Listed{netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32), now.Add(time.Hour)})
	}
	var spent time.Duration
	for b.Loop() {
		before := cputime.Process()
		l.sync(table, r, now)
		spent += cputime.Process() - before
		b.StopTimer()
		if err := table.Remove(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), "cpu-ms/op")
}
