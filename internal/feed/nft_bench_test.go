package feed

import (
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// R19: fifty thousand addresses in less than 100 ms. What is told is the time of this
// process on a CPU, kernel and all: the machine has other things to do.
func BenchmarkFiftyThousand(b *testing.B) {
	l := newLab(b)
	table, now := l.table(), time.Now()
	r := &Ruleset{Hook: "prerouting", Action: "drop"}
	for i := range 50_000 {
		r.Block = append(r.Block, Listed{netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32), now.Add(time.Hour)})
	}
	var spent time.Duration
	for b.Loop() {
		before := cpu(b)
		l.sync(table, r, now)
		spent += cpu(b) - before
		b.StopTimer()
		if err := table.Remove(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(spent.Milliseconds())/float64(b.N), "cpu-ms/op")
}

func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
