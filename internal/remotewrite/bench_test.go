package remotewrite

import (
	"testing"

	"github.com/ctsight/ctsight/internal/metrics"
)

// BenchmarkPush is what a message costs each interval from the families on, without the
// network: it and the size of what waits are in docs/remote-write.md.
func BenchmarkPush(b *testing.B) {
	g := newGateway()
	g.n = 3 // with the second table
	mfs, err := g.gather("")
	must(b, err)
	var tr tracker
	for i := 0; b.Loop(); i++ {
		p, err := pack(tr.next(flatten(mfs, map[string]string{"job": "ctsight", "instance": "gw1"})), int64(i))
		must(b, err)
		b.ReportMetric(float64(len(p.packed)), "bytes")
	}
	b.ReportMetric(float64(metrics.Series(mfs)), "series")
}
