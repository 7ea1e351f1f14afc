package pipeline

import (
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

// Thousands of namespaces come and go: the sums over all stay, memory does not grow.
func TestFallbackBuries(t *testing.T) {
	f := &Fallback{gone: map[event.NetNS]*account{}, nets: map[event.NetNS]*fallbackNet{}}
	const n = 5 * goneKept
	for i := range n {
		a := newAccount(point{})
		a.moved[event.LookupUnknown], a.moved[event.TableFull] = 0, int64(i%3)
		a.totals[event.ChainTooLong], a.news, a.causes[event.TimeoutGC] = 1, 2, 3
		if i%500 == 0 {
			a.merged = 1
		}
		f.bury(event.NetNS(1000+i), a)
	}
	if len(f.gone) != goneKept {
		t.Errorf("%d accounts are kept", len(f.gone))
	}
	var full, chains, news, merged, timeouts uint64
	for _, c := range f.Counters() {
		full += c.Reasons[event.TableFull]
		chains += c.Reasons[event.ChainTooLong]
		merged += c.Reasons[event.ClashMerged]
		news += c.New
		timeouts += c.Causes[event.TimeoutGC]
	}
	const thirds = n / 3 * (1 + 2)
	if full != thirds+n%3/2 || chains != n || news != 2*n || timeouts != 3*n || merged != (n+499)/500 {
		t.Errorf("%d full, %d chains, %d new, %d timeouts, %d merged", full, chains, news, timeouts, merged)
	}
}
