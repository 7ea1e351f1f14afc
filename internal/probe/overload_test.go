package probe_test

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// A crowd's account of a source: what was told of it, in events and sums.
type bySource struct {
	news, drops, destroyed, evicted uint64
}

// shedder takes the events and the sums of a probe in a namespace.
type shedder struct {
	of                event.NetNS
	src               map[netip.Addr]*bySource
	all               bySource // by cause early_drop: evicted
	caused            uint64   // entries evicted, by who made room for itself
	events, sums      uint64
	pause             time.Duration
	sampled, earliest uint64
	told              event.ProtoCounts // in all namespaces
}

func newShedder(ns *netlab.NS) *shedder {
	return &shedder{of: ns.Inode(), src: map[netip.Addr]*bySource{}}
}

func (s *shedder) count(k event.Kind, c event.Cause, src netip.Addr, n uint64) {
	b := s.src[src]
	if b == nil {
		b = &bySource{}
		s.src[src] = b
	}
	for _, x := range []*bySource{b, &s.all} {
		switch k {
		case event.New:
			x.news += n
		case event.Drop:
			x.drops += n
		case event.Destroy:
			x.destroyed += n
			if c == event.EarlyDrop {
				x.evicted += n
			}
		}
	}
}

func (s *shedder) sum(x *event.Sum) {
	if x.NetNS != s.of {
		return
	}
	s.sums += x.N
	s.caused += x.Evicted
	if x.Last < x.From || x.From < 0 {
		s.earliest++
	}
	s.count(x.Kind, x.Cause, x.Src, x.N)
}

func (s *shedder) take(e *event.Event) error {
	s.told.Add(e, 1)
	if e.NetNS != s.of {
		return nil
	}
	s.events++
	if e.Sample > 1 {
		s.sampled++
	}
	if !e.By.IsZero() {
		s.caused++
	}
	s.count(e.Kind, e.Cause, e.Orig.Src, 1)
	if s.pause > 0 && s.events%64 == 0 {
		time.Sleep(s.pause)
	}
	return nil
}

// Tier 2 under forced overload: rings of 512 records and a reader that does
// nothing, or sleeps. Of each source all is told, as event or in a sum, while a
// sum finds its place; and seen = delivered + aggregated + lost always.
func TestOverload(t *testing.T) {
	for _, c := range []struct {
		name           string
		sources, ports int
		limit          int           // of the table; 0 has room for all
		read           bool          // while it is sent
		pause          time.Duration // of the reader, each 64 events
		lossy          bool          // more sums than places and ring
	}{
		{name: "nobody reads", sources: 60, ports: 200},
		{name: "full table", sources: 24, ports: 250, limit: 1500},
		{name: "slow reader", sources: 60, ports: 300, read: true, pause: 20 * time.Millisecond},
		{name: "too many sources", sources: 4000, ports: 5, lossy: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t)
			if c.limit > 0 {
				limit(t, r, c.limit)
			}
			s := newShedder(r.R)
			s.pause = c.pause
			p := open(t, probe.Options{RingBytes: 64 << 10, Sums: s.sum})
			stop := func() {}
			if c.read {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- p.Run(ctx, s.take) }()
				stop = func() { cancel(); must(t, <-done) }
			}
			f := flows(netlab.Addrs{First: netip.MustParseAddr("198.51.100.0"), N: c.sources}, c.ports, 0)
			truth := sendFromAll(t, r, f)
			flush(t, dial(t, r.R))
			must(t, p.Detach())
			stop()
			done, cancel := context.WithCancel(t.Context())
			cancel()
			must(t, p.Run(done, s.take))

			l, k := p.Loss(), countersOf(p, r.R)
			t.Logf("%+v; %d events of which %d stand for more, %d in sums", l, s.events, s.sampled, s.sums)
			if l.Seen != l.Delivered+l.Aggregated+l.Lost || l.Aggregated == 0 {
				t.Errorf("seen %d, delivered %d, aggregated %d, lost %d", l.Seen, l.Delivered, l.Aggregated, l.Lost)
			}
			if sent := truth.Flows(); k.New+k.Reasons[event.TableFull] != sent || destroyed(k) != k.New {
				t.Errorf("the counters: %d new, %d refused, %d destroyed of %d sent", k.New, k.Reasons[event.TableFull], destroyed(k), sent)
			}
			missing := k.New + k.Reasons[event.TableFull] + destroyed(k) - s.all.news - s.all.drops - s.all.destroyed
			if missing > l.Lost || c.lossy != (l.Lost > 0) || s.earliest > 0 {
				t.Errorf("%d not told, %d lost by its own account, %d sums with strange times", missing, l.Lost, s.earliest)
			}
			equalProtos(t, s, p)
			if !c.lossy {
				equalCounts(t, s, &k, truth)
			}
		})
	}
}

// equalProtos compares events and what was not told, by protocol and cause, with
// the counters: nothing of it may be missing, whatever was lost.
func equalProtos(t *testing.T, s *shedder, p *probe.Probe) {
	t.Helper()
	var udp, news, counted uint64
	var byCause, causes [event.NumCauses]uint64
	all := p.Untold()
	all.Plus(&s.told)
	all.EachNew(func(ipv6 bool, proto uint8, n uint64) {
		if news += n; !ipv6 && proto == event.ProtoUDP {
			udp += n
		}
	})
	all.EachDestroy(func(proto uint8, c event.Cause, n uint64) { byCause[c] += n })
	for _, c := range p.Counters() {
		counted += c.New
		for i, n := range c.Causes {
			causes[i] += n
		}
	}
	if news != counted || byCause != causes || udp < news-news/100 {
		t.Errorf("%d new of which %d udp, destroyed %v; counted %d, %v", news, udp, byCause, counted, causes)
	}
}

// equalCounts compares what was told of each source with what it sent, and the
// sums of it with the counters.
func equalCounts(t *testing.T, s *shedder, k *probe.Counters, truth *netlab.Truth) {
	t.Helper()
	if s.all.news != k.New || s.all.drops != k.Reasons[event.TableFull] || s.all.destroyed != destroyed(*k) ||
		s.all.evicted != k.Causes[event.EarlyDrop] || s.caused != k.Causes[event.EarlyDrop] {
		t.Errorf("told %+v, evictions caused %d; counted %+v", s.all, s.caused, k)
	}
	sent := truth.FlowsBySource()
	if len(sent) != len(s.src) {
		t.Errorf("%d sources told, %d sent", len(s.src), len(sent))
	}
	for src, n := range sent {
		if b := s.src[src]; b == nil || b.news+b.drops != n || b.destroyed != b.news {
			t.Errorf("%v: told %+v of %d", src, b, n)
		}
	}
	if s.sampled == 0 {
		t.Error("no event stands for more than itself")
	}
}

// sendFromAll sends flows from all CPUs at once.
func sendFromAll(t *testing.T, r *netlab.Router, f netlab.Flows) *netlab.Truth {
	t.Helper()
	var parts []netlab.Flows
	for i := range runtime.NumCPU() {
		parts = append(parts, f.Part(i, runtime.NumCPU()))
	}
	truths, err := r.SendParallel(t.Context(), netlab.SendOptions{}, parts...)
	must(t, err)
	must(t, r.Drain())
	for _, x := range truths[1:] {
		truths[0].Add(x)
	}
	return truths[0]
}
