package detect

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// The bound of detection.md on the mean number of contacts until a benign source of
// which a share p of the contacts fails is taken for a scanner: exp(omega H), omega =
// ln((1-p)/p)/W. The walk itself, with nothing that clears anybody, keeps it.
func TestBound(t *testing.T) {
	n := newScan()
	for _, p := range []float64{.2, .25, .3} {
		bound := math.Exp(math.Log((1-p)/p) / n.failure * threshold)
		r := rand.New(rand.NewPCG(2004, 11))
		const contacts = 30_000_000
		crossed, lambda := 0, 0.
		for range contacts {
			if r.Float64() < p {
				lambda += n.failure
			} else {
				lambda = max(0, lambda+n.success)
			}
			if lambda >= threshold {
				crossed++
				lambda = 0
			}
		}
		mean := contacts / float64(max(1, crossed))
		t.Logf("p = %v: bound %.3g contacts, %.3g in %d crossings", p, bound, mean, crossed)
		if mean < bound {
			t.Errorf("p = %v: %d crossings, one in %.3g contacts, and not in %.3g or more", p, crossed, mean, bound)
		}
	}
}

// A thousand sources that open 600 connections to new endpoints each in a day, a fifth
// of which fail: at most one of them may be called a scanner.
func TestFalseAlarmsOfADay(t *testing.T) {
	const sources, each, p = 1000, 600, .2
	r := rand.New(rand.NewPCG(8, 15))
	suspect, confirmed := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
	d := New(Config{Tell: func(f *agg.Finding) {
		if f.Class != "scan" {
			return
		}
		if suspect[f.Source] = true; f.State == agg.Confirmed && f.Severity != agg.Info {
			confirmed[f.Source] = true
		}
	}}, 0)
	const step = event.Ktime(24*time.Hour) / (sources * each)
	const tick = event.Ktime(time.Second)
	answers := map[uint64]bool{}
	looks, next := make([]Look, 0, 256), tick
	for i := range uint64(sources * each) {
		now := event.Ktime(i) * step
		for ; next <= now; next += tick {
			for due := d.Due(next, looks); len(due) > 0; due = d.Due(next, looks) {
				for k := range due {
					s := Seen{Known: true, Live: true, TCPState: event.TCPSynSent}
					if answers[due[k].Ptr] {
						s.Status, s.TCPState = event.SeenReply|event.Assured, event.TCPEstablished
						delete(answers, due[k].Ptr)
					}
					d.Seen(&due[k], next, s)
				}
			}
			d.Tick(next, State{})
		}
		h := r.IntN(sources)
		e := event.Event{Kind: event.New, Time: now, NetNS: 1, Ptr: 1<<63 | i, Orig: event.Tuple{Proto: event.ProtoTCP,
			Src: netip.AddrFrom4([4]byte{10, 1, byte(h >> 8), byte(h)}), Sport: uint16(i), Dport: []uint16{443, 443, 80, 993}[r.IntN(4)],
			Dst: netip.AddrFrom4([4]byte{byte(11 + r.IntN(89)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})}}
		d.Add(&e)
		switch fails := r.Float64() < p; {
		case !fails:
			answers[e.Ptr] = true
		case r.IntN(2) == 0: // refused; the others stay silent
			e.Kind, e.Time, e.Cause = event.Destroy, now+1, event.TCPRstUnreplied
			e.Lifetime, e.HasLifetime = 1, true
			d.Add(&e)
		}
	}
	t.Logf("%d suspect, %d confirmed", len(suspect), len(confirmed))
	if len(confirmed) > 1 {
		t.Errorf("%d of %d sources are confirmed as scanners in a day", len(confirmed), sources)
	}
}
