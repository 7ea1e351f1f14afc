package pipeline

import (
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// A crowd is a number of rounds of flows that are all different, and how often
// each of them was told. Rounds are as large as fits under the host's
// nf_conntrack_max, which is not ours to change; between two the table is
// flushed.
type crowd struct {
	l      *netlab.Router
	rounds int
	sent   uint64
	took   time.Duration // of sending alone

	mu              sync.Mutex
	news, destroyed []uint8 // by flow
	strange         int     // events of no flow of ours
	order           order
	stall           chan struct{}
}

const (
	crowdPorts   = 2000
	crowdSources = 100
	crowdRound   = crowdPorts * crowdSources
)

var crowdFirst = netip.MustParseAddr("10.2.0.0")

func newCrowd(t *testing.T, rounds int) *crowd {
	t.Helper()
	if lab.InVM() {
		t.Skip("needs a machine that is not emulated: the other tests of this backend run here")
	}
	l := newLab(t, netlab.Options{})
	fill, err := conn(t, l.R).Fill()
	must(t, err)
	if fill.Max < crowdRound+1000 {
		t.Skipf("needs nf_conntrack_max over %d, have %d, which is the machine's", crowdRound+1000, fill.Max)
	}
	return &crowd{l: l, rounds: rounds, news: make([]uint8, rounds*crowdRound), destroyed: make([]uint8, rounds*crowdRound)}
}

// round returns the flows of one round.
func (c *crowd) round(i int) netlab.Flows {
	first := netlab.Addrs{First: crowdFirst, N: c.rounds * crowdSources}.At(i * crowdSources)
	return flows(first.String(), crowdSources, crowdPorts, netlab.Sink(0))
}

// send sends flows as fast as all CPUs can, and flushes the table.
func (c *crowd) send(t *testing.T, f netlab.Flows) {
	t.Helper()
	var parts []netlab.Flows
	for i := range runtime.NumCPU() {
		parts = append(parts, f.Part(i, runtime.NumCPU()))
	}
	begin := time.Now()
	truths, err := c.l.SendParallel(t.Context(), netlab.SendOptions{}, parts...)
	must(t, err)
	c.took += time.Since(begin)
	must(t, c.l.Drain())
	for _, x := range truths {
		c.sent += x.Flows()
	}
	flush := conn(t, c.l.R)
	for err = ctnl.ErrTimeout; errors.Is(err, ctnl.ErrTimeout); { // the kernel may take longer than ctnl waits
		err = flush.Flush()
	}
	must(t, err)
}

// sendAll sends a round in parts: of each, all destroys fit into the socket
// that they come through, whenever its reader gets to run. Nothing may be lost.
func (c *crowd) sendAll(t *testing.T, r *running, round int) {
	t.Helper()
	before := r.Loss()
	for i := range 10 {
		c.send(t, c.round(round).Part(i, 10))
		c.settled(t, r)
	}
	after := c.settled(t, r)
	c.check(t, r, after)
	if news, destroyed := c.told(t, round); after.Lost != before.Lost || news != crowdRound || destroyed != crowdRound {
		t.Errorf("told %d new and %d destroyed of %d, lost %d", news, destroyed, crowdRound, after.Lost-before.Lost)
	}
}

// note takes an event, and waits while the crowd is stalled.
func (c *crowd) note(e *event.Event) error {
	c.mu.Lock()
	stall := c.stall
	c.mu.Unlock()
	if stall != nil {
		<-stall
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.note(e)
	i, ok := c.index(e)
	switch {
	case ok && e.Kind == event.New:
		c.news[i]++
	case ok && e.Kind == event.Destroy:
		c.destroyed[i]++
	default:
		c.strange++
	}
	return nil
}

// stop makes note wait until the function it returns is called.
func (c *crowd) stop() (resume func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stall := make(chan struct{})
	c.stall = stall
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stall = nil
		close(stall)
	})
}

func (c *crowd) index(e *event.Event) (int, bool) {
	a, b := e.Orig.Src.As4(), crowdFirst.As4()
	src := int(a[1])<<16 + int(a[2])<<8 + int(a[3]) - int(b[1])<<16 - int(b[2])<<8 - int(b[3])
	i := src*crowdPorts + int(e.Orig.Sport) - 20000
	return i, e.NetNS == c.l.R.Inode() && src >= 0 && i < len(c.news)
}

// told sums up how many flows were told new and destroyed, from a round on. No
// flow may be told twice.
func (c *crowd) told(t *testing.T, from int) (news, destroyed uint64) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := from * crowdRound; i < len(c.news); i++ {
		if c.news[i] > 1 || c.destroyed[i] > 1 {
			t.Fatalf("flow %d told %d times new, %d times destroyed", i, c.news[i], c.destroyed[i])
		}
		news += uint64(c.news[i])
		destroyed += uint64(c.destroyed[i])
	}
	if c.strange > 0 {
		t.Errorf("%d events of no flow", c.strange)
	}
	return news, destroyed
}

// watch opens the netfilter backend and hands its events to the crowd. ring is
// 0 for the default size.
func (c *crowd) watch(t *testing.T, ring int) *running {
	t.Helper()
	f, err := openNetfilter(probe.Options{RingBytes: ring}, spacesOf(c.l.R).list)
	r := &running{Fallback: f, t: t}
	r.run(err, c.note)
	return r
}

// settled waits until all that was sent and flushed is told or lost; check says
// what is missing when that does not happen.
func (c *crowd) settled(t *testing.T, r *running) (l probe.Loss) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		l = r.Loss()
		if news, destroyed := c.told(t, 0); l.Seen >= 2*c.sent && news+destroyed == l.Delivered {
			break
		}
	}
	return l
}

// check compares everything with what was sent: counters, the account, and the
// sum of what was told and what is known to be lost.
func (c *crowd) check(t *testing.T, r *running, l probe.Loss) {
	t.Helper()
	if got := r.of(c.l.R).New; got != c.sent {
		t.Errorf("counted %d new, sent %d", got, c.sent)
	}
	news, destroyed := c.told(t, 0)
	if l.Seen != 2*c.sent || l.Seen != l.Delivered+l.Lost || l.Lost != l.ByStage["ring"]+l.ByStage["netlink"] {
		t.Errorf("sent and flushed %d: %+v", c.sent, l)
	}
	if news+l.ByStage["ring"] != c.sent || destroyed+l.ByStage["netlink"] != c.sent {
		t.Errorf("sent and flushed %d: told %d new and %d destroyed, %+v", c.sent, news, destroyed, l)
	}
	c.mu.Lock()
	late := c.order.late // a CPU that the host takes away between clock and ring
	c.mu.Unlock()
	if l.Late != late || l.ByStage["late_cancel"] != 0 || l.ByStage["stash"] != 0 || l.ByStage["recursion"] != 0 || l.ByStage["netlink_undecodable"] != 0 {
		t.Errorf("%+v", l)
	}
	t.Logf("%d connections, %.0f/s: %d new and %d destroyed told; %+v", c.sent, float64(c.sent)/c.took.Seconds(), news, destroyed, l)
}

// As fast as all CPUs can, with everything at its default: no new entry is
// lost. Destroys come through a socket, and a large flush is one loop in the
// kernel that no reader may keep up with: what did not fit is counted, one by one.
func TestFallbackLossless(t *testing.T) {
	rounds := 5
	if testing.Short() {
		rounds = 1
	}
	c := newCrowd(t, rounds+1)
	r := c.watch(t, 0)
	for i := range rounds {
		c.send(t, c.round(i))
	}
	l := c.settled(t, r)
	c.check(t, r, l)
	if l.ByStage["ring"] != 0 {
		t.Errorf("%d new entries lost", l.ByStage["ring"])
	}
	c.sendAll(t, r, rounds)
}

// R3: for 30 seconds nobody takes events while rings and sockets overflow. The
// counters stay exact, what is lost is counted exactly, what is told is told
// once, and afterwards nothing is lost any more.
func TestFallbackReaderStops(t *testing.T) {
	stopped := 30 * time.Second
	if testing.Short() {
		stopped = 5 * time.Second
	}
	for name, o := range map[string]struct {
		ring, bursts int
		stopped      time.Duration
	}{
		"default": {0, 4, stopped},
		// More records than wait between probe and listener: once all came to
		// a stop here, each waiting for the other.
		"large ring": {4 << 20, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t, o.bursts+1)
			r := c.watch(t, o.ring)
			resume := c.stop()
			defer resume()
			begin := time.Now()
			for i := range o.bursts {
				c.send(t, c.round(i))
				if got := r.of(c.l.R).New; got != c.sent {
					t.Errorf("nobody reads: counted %d new, sent %d", got, c.sent)
				}
				time.Sleep(time.Until(begin.Add(o.stopped * time.Duration(i+1) / time.Duration(o.bursts))))
			}
			t.Logf("nobody read for %v: %+v", time.Since(begin).Round(time.Millisecond), r.Loss())
			resume()
			before := c.settled(t, r)
			c.check(t, r, before)
			if before.ByStage["ring"] == 0 || before.ByStage["netlink"] == 0 {
				t.Errorf("nothing lost: %+v", before)
			}
			c.sendAll(t, r, o.bursts)
		})
	}
}
