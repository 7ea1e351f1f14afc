package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// told collects findings.
type told struct {
	mu  sync.Mutex
	all []agg.Finding
}

func (l *told) add(f *agg.Finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, *f)
}

// last returns what was told last of a source.
func (l *told) last(class string, src netip.Addr) (f agg.Finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.all {
		if x.Class == class && x.Source.Addr() == src {
			f = x
		}
	}
	return f
}

// openIn traces the router of a lab, until the test ends.
func openIn(t *testing.T, l *netlab.Router, backend string) (*Pipeline, event.Clock) {
	t.Helper()
	flt, err := filter.Parse(fmt.Sprintf("netns %d", l.R.Inode()), filter.Options{})
	must(t, err)
	clock, err := NewClock()
	must(t, err)
	p, err := Open(t.Context(), Config{Backend: backend, Filter: flt, Sums: true})
	if errors.Is(err, probe.ErrNotPossible) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p, clock
}

// Two scans, one that is refused and one that nobody answers, beside clients that
// are served: what is found is what was sent, on every backend that this kernel has.
func TestWatchFindsScans(t *testing.T) {
	lab.NeedRoot(t)
	for _, backend := range []string{probe.Auto, probe.Netfilter, probe.Netlink} {
		t.Run(backend, func(t *testing.T) { watchScans(t, backend) })
	}
}

func watchScans(t *testing.T, backend string) {
	const refused, silent = 200, 60
	refusedBy, silentTo, served := netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("10.7.0.2"), netip.MustParseAddr("10.7.0.3")
	l := newLab(t, netlab.Options{Name: "ctsight-detect-test", ClientNets: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}})
	svc, err := l.ServeTCP(netip.AddrPortFrom(netlab.ServerV4, 80))
	must(t, err)
	defer svc.Close()
	p, clock := openIn(t, l, backend)
	var got told
	w := p.NewWatch(clock, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}})
	w.Detect(Detection{Found: got.add})
	rec := recordTo(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx, nil) }()
	_, err = l.ConnectTCP(ctx, netlab.ConnectOptions{N: 100, Src: netlab.OneAddr(served), Dst: netip.AddrPortFrom(netlab.ServerV4, 80)})
	must(t, err)
	_, err = l.Scan(ctx, refusedBy, netlab.ServerV4, netlab.Ports{First: 3000, N: refused}, 2000)
	must(t, err)
	_, err = l.Scan(ctx, silentTo, netlab.Sink(0), netlab.Ports{First: 3000, N: silent}, 500)
	must(t, err)
	until := time.Now().Add(2 * time.Minute)
	whole := func(src netip.Addr, n uint64) bool {
		f := got.last("scan", src)
		return f.State == agg.Confirmed && f.Evidence.Refused+f.Evidence.Unanswered >= n
	}
	for (!whole(refusedBy, refused) || !whole(silentTo, silent)) && time.Now().Before(until) {
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	must(t, <-ran)
	must(t, w.Finish())
	rec.sameAs(t, got.all, map[netip.Addr]int{refusedBy: refused, silentTo: silent})
	for _, p := range w.Problems() {
		t.Error(p)
	}
	for _, x := range []struct {
		src              netip.Addr
		dst              netip.Addr
		refused, ignored uint64
	}{{refusedBy, netlab.ServerV4, refused, 0}, {silentTo, netlab.Sink(0), 0, silent}} {
		f := got.last("scan", x.src)
		e := &f.Evidence
		if f.State != agg.Confirmed || f.Shape != "vertical" || f.NetNS != event.NetNS(l.R.Inode()) || f.Target.Addr != x.dst || f.Raised != 1 {
			t.Errorf("%s: %s %s of %s in %s, raised %d: %s", x.src, f.State, f.Shape, f.Target.Addr, f.NetNS, f.Raised, f.Why)
		}
		if n := x.refused + x.ignored; e.Refused != x.refused || e.Unanswered != x.ignored || e.Contacts != n || e.Dports != n || e.Dsts != 1 || e.Answered != 0 {
			t.Errorf("%s: %+v", x.src, *e)
		}
	}
	for _, f := range got.all {
		if f.Source.Addr() == served {
			t.Errorf("a client that is served: %s", f.Why)
		}
	}
}
