package plan_test

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/plan"
)

func flow(sport uint16) event.Tuple {
	return event.Tuple{Src: netip.MustParseAddr("10.0.0.7"), Dst: netip.MustParseAddr("192.0.2.53"), Sport: sport, Dport: 53, Proto: event.ProtoUDP}
}

func born(at event.Ktime, sport uint16) *event.Event {
	return &event.Event{Kind: event.New, Time: at, Orig: flow(sport)}
}

func gone(at event.Ktime, sport uint16, c event.Cause) *event.Event {
	return &event.Event{Kind: event.Destroy, Time: at, Orig: flow(sport), Cause: c}
}

func held(at event.Ktime, sport uint16, left time.Duration) *plan.Held {
	return &plan.Held{At: at, Event: event.Event{Kind: event.New, Orig: flow(sport)}, Left: left, Has: true}
}

func add(t *testing.T, c *plan.Collector, all ...*event.Event) {
	t.Helper()
	for _, e := range all {
		if err := c.Add(e); err != nil {
			t.Fatal(err)
		}
	}
}

func begin(t *testing.T, c *plan.Collector, all ...*plan.Held) {
	t.Helper()
	for _, h := range all {
		if err := c.Begin(h); err != nil {
			t.Fatal(err)
		}
	}
}

// The table is read while entries come and go: each is counted once, and one that went
// meanwhile has gone.
func TestCollectorBegins(t *testing.T) {
	c := plan.NewCollector(100*s, false)
	add(t, c, born(101*s, 1), gone(102*s, 2, event.TimeoutGC), gone(103*s, 3, event.UserDelete), born(101*s, 7), gone(104*s, 7, event.UserDelete))
	begin(t, c, held(102*s, 7, 30*time.Second), held(101*s, 1, 30*time.Second), held(101*s, 2, time.Second), held(101*s, 4, 20*time.Second), held(101*s, 5, 5*time.Second), held(101*s, 6, 5*time.Second))
	c.Begun()
	add(t, c, gone(110*s, 5, event.TimeoutGC), gone(170*s, 6, event.TimeoutGC))
	c.Still(held(120*s, 4, time.Second))
	c.Still(held(120*s, 1, 25*time.Second))
	c.Close(180 * s)
	all := map[event.Ktime]plan.Conn{}
	n := 0
	for x := range c.All() {
		all[x.End] = x
		n++
	}
	if n != 7 {
		t.Errorf("%d connections, want 7", n)
	}
	if x := all[102*s]; !x.Before || !x.Fixed || x.Expires != 102*s {
		t.Errorf("%+v", x)
	}
	if x := all[103*s]; !x.Before || x.Fixed {
		t.Errorf("%+v", x)
	}
	if x := all[110*s]; !x.Before || !x.Fixed || x.Expires != 106*s {
		t.Errorf("idle since before: %+v", x)
	}
	if x := all[170*s]; !x.Before || x.Fixed != false || x.Expires == 106*s {
		t.Errorf("a packet came: %+v", x)
	}
	r := plan.Read(c, kernel())
	if r.From != 100*s || r.To != 180*s {
		t.Error(r.From, r.To)
	}
	var live []plan.Conn
	for _, x := range r.Conns {
		if x.End == 0 {
			live = append(live, x)
		}
	}
	if len(live) != 2 || live[0].Fixed != true || live[0].Expires != 121*s || live[1].Before || live[1].Expires != 145*s {
		t.Errorf("%+v", live)
	}
}

// What was found and is told of only then is one connection; one whose end was lost ends
// when its tuple comes again.
func TestCollectorLate(t *testing.T) {
	c := plan.NewCollector(100*s, false)
	begin(t, c, held(102*s, 1, 30*time.Second))
	c.Begun()
	add(t, c, born(101*s, 1), born(120*s, 2), born(160*s, 2))
	c.Close(180 * s)
	all := slices.Collect(c.All())
	if len(all) != 3 || all[0].Before || all[0].Start != 101*s || all[1].End != 160*s || all[2].Start != 160*s || all[2].End != 0 {
		t.Errorf("%+v", all)
	}
}

// Entries from before somebody listened do not tell their end: what is not in the table
// any more went when the collector came, for the first time after its timeout.
func TestCollectorSilent(t *testing.T) {
	c := plan.NewCollector(100*s, false)
	begin(t, c, held(100*s, 1, 5*time.Second), held(100*s, 2, 50*time.Second), held(100*s, 3, 75*time.Second))
	c.Begun()
	for _, x := range []plan.Count{{At: 99 * s, N: 1000}, {At: 102 * s, N: 5}, {At: 139 * s, N: 5}, {At: 141 * s, N: 3}, {At: 159 * s, N: 3}, {At: 161 * s, N: 1}, {At: 180 * s, N: 1}} {
		c.Counted(x) // the first before the table was read: that has removed what had expired
	}
	add(t, c, born(101*s, 11), born(102*s, 12), gone(140*s, 11, event.Timeout), gone(160*s, 12, event.Timeout))
	c.Ending()
	c.Still(held(180*s, 3, 29*time.Second))
	c.Close(180 * s)
	r := plan.Read(c, kernel())
	run := r.Simulate(plan.WhatIf{})
	for at, want := range map[int]uint32{3: 5, 39: 5, 41: 3, 59: 3, 61: 1, 80: 1} {
		if got := run.Curve[at-1]; got != want {
			t.Errorf("%d entries after %d s, want %d", got, at, want)
		}
	}
}

// Who is refused and tries again is one; a pool is told apart by address and
// destination.
func TestCollectorRefusedAndPools(t *testing.T) {
	c := plan.NewCollector(0, false)
	full := func(at event.Ktime, sport uint16) *event.Event {
		return &event.Event{Kind: event.Drop, Reason: event.TableFull, Time: at, Orig: flow(sport)}
	}
	add(t, c, full(s, 1), full(2*s, 1), full(4*s, 1), full(60*s, 1), full(60*s, 2), &event.Event{Kind: event.Drop, Reason: event.NATExhausted, Time: s})
	for i := range 5 {
		e := born(10*s, uint16(100+i))
		e.Status, e.Reply = event.SrcNAT, e.Orig.Inverse()
		e.Reply.Dst, e.Reply.Dport = netip.MustParseAddr("203.0.113.9"), uint16(5000+i)
		if i == 4 {
			e.Reply.Sport = 54
		}
		add(t, c, e)
	}
	add(t, c, gone(20*s, 100, event.TimeoutGC), gone(20*s, 101, event.TimeoutGC))
	late := born(30*s, 200)
	late.Status, late.Reply = event.SrcNAT, late.Orig.Inverse()
	late.Reply.Dst = netip.MustParseAddr("203.0.113.9")
	add(t, c, late)
	c.Close(90 * s)
	r := plan.Read(c, kernel())
	_, all := r.Costs()
	if all.Refused != 3 || all.Arrivals != 9 {
		t.Errorf("%+v", all)
	}
	pools := r.PoolNeeds(10)
	if len(pools) != 2 || pools[0].Peak != 4 || pools[0].Port != 53 || pools[1].Peak != 1 || pools[0].Addresses != 1 {
		t.Errorf("%+v", pools)
	}
	if got := r.PoolNeeds(1); len(got) != 1 {
		t.Error(got)
	}
	// With room they would have been there, as long as others.
	if run := r.Simulate(plan.WhatIf{Max: 1000}); run.Drops != 0 || run.Peak < 6 {
		t.Errorf("%+v", run)
	}
}

// Each sort of connection in its class, with its timer.
func TestClasses(t *testing.T) {
	day := 24 * 3600 * s
	mk := func(proto uint8, state event.TCPState, replied bool, life event.Ktime, cause event.Cause) plan.Conn {
		c := plan.Conn{Start: s, Proto: proto, State: state, Replied: replied, Cause: cause}
		if life > 0 {
			c.End = s + life
		}
		return c
	}
	for i, tc := range []struct {
		c    plan.Conn
		want plan.Class
	}{
		{mk(event.ProtoTCP, event.TCPSynSent, false, 130*s, event.TimeoutGC), plan.TCPUnanswered},
		{mk(event.ProtoTCP, 0, false, 130*s, event.TimeoutGC), plan.TCPUnanswered},
		{mk(event.ProtoTCP, event.TCPClose, false, s/100, event.TCPRstUnreplied), plan.TCPRefused},
		{mk(event.ProtoTCP, event.TCPSynRecv, true, 70*s, event.TimeoutGC), plan.TCPHalfOpen},
		{mk(event.ProtoTCP, event.TCPTimeWait, true, 170*s, event.TimeoutGC), plan.TCPClosed},
		{mk(event.ProtoTCP, 0, true, 170*s, event.TimeoutGC), plan.TCPClosed},
		{mk(event.ProtoTCP, 0, true, 15*s, event.TimeoutGC), plan.TCPClosed},
		{mk(event.ProtoTCP, 0, true, 6*day, event.TimeoutGC), plan.TCPEstablished},
		{mk(event.ProtoTCP, 0, true, 0, 0), plan.TCPEstablished},
		{mk(event.ProtoUDP, 0, false, 35*s, event.TimeoutGC), plan.UDPOneWay},
		{mk(event.ProtoUDP, 0, true, 35*s, event.TimeoutGC), plan.UDPAnswered},
		{mk(event.ProtoUDP, 0, true, 123*s, event.TimeoutGC), plan.UDPFlow},
		{mk(event.ProtoICMP, 0, true, 35*s, event.TimeoutGC), plan.ICMPEcho},
		{mk(event.ProtoSCTP, 0, true, 35*s, event.TimeoutGC), plan.Other},
		{mk(event.ProtoGRE, 0, true, 190*s, event.TimeoutGC), plan.Other},
	} {
		r := plan.Read(conns{[]plan.Conn{tc.c}, 0, 7 * day}, kernel())
		if got, _ := r.Costs(); len(got) != 1 || got[0].Class != tc.want {
			t.Errorf("%d: %v, want %v", i, got[0].Class, tc.want)
		}
		if r.Early > 0 {
			t.Errorf("%d: too early", i)
		}
	}
}

// What is still there does not end where the window does: the mean lifetime is that of
// the exponential law behind it, though a third has not ended.
func TestLifeOfThoseThatLive(t *testing.T) {
	const mean = 40.0
	var all []plan.Conn
	for i := range 20_000 {
		// quantiles of the exponential law, and arrivals that do not follow them
		life := event.Ktime(mean * 1e9 * -math.Log(1-float64(i)/20_000))
		c := plan.Conn{Start: event.Ktime(i*7919%20_000) * s / 200, ID: uint64(i), Proto: event.ProtoTCP, State: event.TCPEstablished, Replied: true}
		if c.End = c.Start + life; c.End > 100*s {
			c.End = 0
		} else {
			c.Cause = event.UserDelete
		}
		all = append(all, c)
	}
	r := plan.Read(conns{all, 0, 100 * s}, kernel())
	classes, _ := r.Costs()
	var naive, n float64
	for _, c := range all {
		if c.End != 0 {
			naive, n = naive+(c.End-c.Start).Sub(0).Seconds(), n+1
		}
	}
	i := slices.IndexFunc(classes, func(c plan.Cost) bool { return c.Class == plan.TCPEstablished })
	// The part of the tail beyond the window is exp(-100/40): 8 % are not seen.
	if got := classes[i].Life.Seconds(); got < 0.88*mean || got > 1.02*mean || naive/n > 0.75*mean {
		t.Errorf("%.1f s, want %.0f; of those that ended %.1f", got, mean, naive/n)
	}
	if !classes[i].AtLeast {
		t.Error("nothing is said of those that live on")
	}
}
