package plan_test

import (
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/triage"
)

const s = event.Ktime(time.Second)

// conns are an Input.
type conns struct {
	all      []plan.Conn
	from, to event.Ktime
}

func (c conns) All() iter.Seq[plan.Conn]           { return slices.Values(c.all) }
func (c conns) Window() (event.Ktime, event.Ktime) { return c.from, c.to }
func (c conns) Pools() []plan.Pool                 { return nil }
func (c conns) Read() event.Ktime                  { return 0 }
func (c conns) Counts() []plan.Count               { return nil }

func kernel() plan.Kernel {
	return plan.Kernel{Max: 0, Buckets: 65536, Timeouts: plan.DefaultTimeouts()}
}

// poisson makes connections of UDP that are answered by nobody and live exactly as
// long as their timeout, from empty on; gc says that the collector comes each so often.
func poisson(rng *rand.Rand, rate float64, life, span event.Ktime) (out []plan.Conn) {
	for t := event.Ktime(0); ; {
		t += event.Ktime(rng.ExpFloat64() / rate * 1e9)
		if t >= span {
			return out
		}
		c := plan.Conn{Start: t, ID: rng.Uint64(), Proto: event.ProtoUDP}
		if t+life <= span {
			c.End, c.Cause = t+life, event.TimeoutGC
		}
		out = append(out, c)
	}
}

// meanOf is of the curve from a second on.
func meanOf(r plan.Run, from int) float64 {
	var sum float64
	for _, n := range r.Curve[from:] {
		sum += float64(n)
	}
	return sum / float64(len(r.Curve)-from)
}

// M/G/infinity: in the long run lambda T entries, and of a mean over w seconds the
// standard error is sqrt(2 lambda T^2 / w), the occupancy being correlated over T.
func TestSettlesAtLambdaT(t *testing.T) {
	const rate, span = 200.0, 600
	rng := rand.New(rand.NewPCG(1, 2))
	r := plan.Read(conns{poisson(rng, rate, 30*s, span*s), 0, span * s}, kernel())
	if !r.Lagless {
		t.Error("a capture without a collector is not known as one")
	}
	for _, c := range []struct {
		timeout time.Duration
		factor  float64
	}{{30 * time.Second, 1}, {10 * time.Second, 1}, {60 * time.Second, 1}, {30 * time.Second, 2}, {30 * time.Second, 0.5}, {10 * time.Second, 1.5}} {
		run := r.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: c.timeout}}, Factor: c.factor})
		T := c.timeout.Seconds()
		want := rate * T * c.factor
		se := math.Sqrt(2 * rate * max(1, c.factor) * c.factor * T * T / (span - T))
		if got := meanOf(run, int(T)+1); math.Abs(got-want) > 4*se {
			t.Errorf("%v x %v: %.0f entries, want %.0f +- %.0f", c.timeout, c.factor, got, want, se)
		}
	}
	classes, all := r.Costs()
	if len(classes) != 1 || classes[0].Class != plan.UDPOneWay || classes[0].Life != 30*time.Second {
		t.Errorf("%+v", classes)
	}
	n := float64(all.Arrivals)
	if want := n / span * 30; math.Abs(all.Offered-want) > 1e-6*want {
		t.Errorf("offered %.3f, want %.3f", all.Offered, want)
	}
	if all.Dispersed < 1 || all.Dispersed > 2 {
		t.Errorf("independent arrivals are %.2f times as variable", all.Dispersed)
	}
}

// A connection each 10 ms that lives for 5 s: 500, always.
func TestDeterministic(t *testing.T) {
	var all []plan.Conn
	for at := event.Ktime(0); at < 60*s; at += s / 100 {
		c := plan.Conn{Start: at, End: at + 5*s, Cause: event.TimeoutGC, ID: uint64(at), Proto: event.ProtoUDP}
		if c.End > 60*s {
			c.End, c.Cause = 0, 0
		}
		all = append(all, c)
	}
	k := kernel()
	k.Timeouts[plan.UDP] = 5 * time.Second
	r := plan.Read(conns{all, 0, 60 * s}, k)
	for timeout, want := range map[int]uint32{5: 500, 10: 1000, 2: 200} {
		run := r.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: time.Duration(timeout) * time.Second}}, Max: 1 << 20})
		for i, n := range run.Curve {
			if full := uint32(min(100*(i+1)+1, int(want))); n != full && n != full-1 && n != full+1 {
				t.Fatalf("timeout %d: %d after %d s, want %d", timeout, n, i+1, full)
			}
		}
		if run.Peak < uint64(want) || run.Peak > uint64(want)+1 {
			t.Errorf("timeout %d: peak %d, want %d", timeout, run.Peak, want)
		}
	}
	_, cost := r.Costs()
	if cost.Peak1s != 100 || cost.Peak10ms != 1 || cost.Rate != 100 || cost.Dispersed != 1 {
		t.Errorf("%+v", cost)
	}
	// Assured by nobody: all that comes above the limit evicts, or is refused.
	run := r.Simulate(plan.WhatIf{Max: 300})
	if run.Peak != 300 || run.Drops+run.Evicted == 0 || run.Arrivals != 6000 {
		t.Errorf("%+v", run)
	}
	if run.Above[2] < 0.9 || run.Above[2] > run.Above[0] {
		t.Errorf("above %v", run.Above)
	}
}

// anyConns are of all sorts: timed out with and without a collector, reset, evicted,
// there before, still there.
func anyConns(t *rapid.T) conns {
	k := plan.DefaultTimeouts()
	span := event.Ktime(rapid.Int64Range(1, 300).Draw(t, "span")) * s
	in := conns{to: span}
	for range rapid.IntRange(0, 40).Draw(t, "conns") {
		c := plan.Conn{Start: event.Ktime(rapid.Int64Range(0, int64(span)).Draw(t, "start")), ID: rapid.Uint64Range(0, 20).Draw(t, "id"),
			Proto: rapid.SampledFrom([]uint8{event.ProtoTCP, event.ProtoUDP, event.ProtoICMP, event.ProtoSCTP, event.ProtoGRE, 99}).Draw(t, "proto"),
			State: rapid.SampledFrom([]event.TCPState{0, event.TCPSynSent, event.TCPEstablished, event.TCPTimeWait, event.TCPClose}).Draw(t, "state")}
		if c.Before = rapid.IntRange(0, 5).Draw(t, "before") == 0; c.Before {
			c.Start = 0
		}
		if c.Replied = rapid.Bool().Draw(t, "replied"); c.Replied {
			c.Assured = max(1, c.Start)
		}
		switch rapid.IntRange(0, 4).Draw(t, "fate") {
		case 0: // lives
		case 1:
			c.Cause = event.TCPRstUnreplied
		case 2:
			c.Cause = event.EarlyDrop
		default:
			c.Cause = event.TimeoutGC
		}
		if c.Cause != 0 {
			c.End = c.Start + event.Ktime(rapid.Int64Range(0, int64(k[plan.TimeWait]*2)).Draw(t, "life"))
			if c.End > in.to {
				c.End, c.Cause = 0, 0
			}
		}
		in.all = append(in.all, c)
	}
	return in
}

// Without a change the replay is the record: at every second what was there.
func TestNothingChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyConns(t)
		r := plan.Read(in, kernel())
		same := []plan.Change{}
		for timer, value := range plan.DefaultTimeouts() {
			if timer > 0 {
				same = append(same, plan.Change{Timer: plan.Timer(timer), To: value})
			}
		}
		for name, run := range map[string]plan.Run{"nothing": r.Simulate(plan.WhatIf{}), "the same timeouts": r.Simulate(plan.WhatIf{Timeouts: same})} {
			if name != "nothing" && slices.ContainsFunc(in.all, func(c plan.Conn) bool { return c.Cause == event.EarlyDrop }) {
				continue // what was evicted lives on where there is no limit
			}
			for i, got := range run.Curve {
				at, want := event.Ktime(i+1)*s, uint32(0)
				for _, c := range in.all {
					if c.Start <= at && (c.End == 0 || c.End > at) {
						want++
					}
				}
				if got != want {
					t.Fatalf("%s: %d entries after %d s, want %d", name, got, i+1, want)
				}
			}
		}
	})
}

// The same what-if by brute force: second by second, with a list for a table, and no
// limit. It knows the kernel's rule for new values: the last packet and the timeout of
// then make the end. Exact without a collector.
func TestAgainstBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, to := 30*time.Second, time.Duration(rapid.IntRange(1, 90).Draw(t, "timeout"))*time.Second
		span := event.Ktime(rapid.Int64Range(60, 200).Draw(t, "span")) * s
		in := conns{to: span}
		type flow struct{ first, last event.Ktime }
		var flows []flow
		for i := range rapid.IntRange(1, 60).Draw(t, "flows") {
			f := flow{first: event.Ktime(rapid.Int64Range(0, int64(span-1)).Draw(t, "first"))}
			// a packet or more, each before the timeout of the one before; the first ones
			// only one, so that there is a majority that shows the lack of a collector
			f.last = f.first
			if i%3 == 2 {
				f.last += event.Ktime(rapid.Int64Range(0, int64(min(old, to))).Draw(t, "last"))
			}
			if f.last >= span {
				f.last = f.first
			}
			flows = append(flows, f)
			c := plan.Conn{Start: f.first, End: f.last + event.Ktime(old), Cause: event.TimeoutGC, ID: uint64(i + 1), Proto: event.ProtoUDP, Expires: f.last + event.Ktime(old)}
			if c.End > span {
				c.End, c.Cause = 0, 0
			}
			in.all = append(in.all, c)
		}
		r := plan.Read(in, kernel())
		if !r.Lagless {
			return // all that ended had a second packet
		}
		run := r.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: to}}})
		for i, got := range run.Curve {
			at, want := event.Ktime(i+1)*s, uint32(0)
			for _, f := range flows {
				if f.first <= at && at < f.last+event.Ktime(to) {
					want++
				}
			}
			if got != want {
				t.Fatalf("%d entries after %d s, want %d", got, i+1, want)
			}
		}
	})
}

// A table of a few entries with a limit, by brute force: the buckets being as many as
// there are numbers, early drop finds nobody, and who comes to a full table is refused.
func TestRefusesLikeBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 10).Draw(t, "max")
		in := conns{to: 100 * s}
		for i := range rapid.IntRange(1, 40).Draw(t, "conns") {
			c := plan.Conn{Start: event.Ktime(rapid.Int64Range(0, 99).Draw(t, "start"))*s + event.Ktime(i), ID: uint64(i + 1), Proto: event.ProtoTCP, Replied: true, State: event.TCPEstablished}
			c.Assured = max(1, c.Start)
			if rapid.Bool().Draw(t, "ends") {
				c.End, c.Cause = c.Start+event.Ktime(rapid.Int64Range(1, 50).Draw(t, "life"))*s+s/2, event.UserDelete
				if c.End > in.to {
					c.End, c.Cause = 0, 0
				}
			}
			in.all = append(in.all, c)
		}
		r := plan.Read(in, kernel())
		run := r.Simulate(plan.WhatIf{Max: uint64(limit)})
		slices.SortFunc(in.all, func(a, b plan.Conn) int { return int(a.Start - b.Start) })
		var table []plan.Conn
		refused := uint64(0)
		for _, c := range in.all {
			table = slices.DeleteFunc(table, func(x plan.Conn) bool { return x.End != 0 && x.End <= c.Start })
			if len(table)+1 > limit {
				refused++
				continue
			}
			table = append(table, c)
		}
		if run.Drops != refused || run.Evicted != 0 || run.Peak > uint64(limit) {
			t.Fatalf("refused %d, want %d; evicted %d, peak %d of %d", run.Drops, refused, run.Evicted, run.Peak, limit)
		}
	})
}

// Early drop takes all that is not assured of the first bucket that has any: with one
// bucket everything.
func TestEvicts(t *testing.T) {
	var all []plan.Conn
	for i := range 20 {
		c := plan.Conn{Start: event.Ktime(i) * s, ID: uint64(i + 1), Proto: event.ProtoUDP}
		if i < 5 {
			c.Replied, c.Assured = true, max(1, c.Start)
		}
		all = append(all, c)
	}
	k := kernel()
	k.Buckets = 1
	k.Timeouts[plan.UDP], k.Timeouts[plan.UDPStream] = time.Hour, time.Hour
	r := plan.Read(conns{all, 0, 20 * s}, k)
	run := r.Simulate(plan.WhatIf{Max: 10})
	// 5 assured, 5 others; the 11th evicts those 5, the 16th again.
	if run.Evicted != 10 || run.Drops != 0 || run.Peak != 10 {
		t.Errorf("%+v", run)
	}
}

// Only what is new, or gets a packet after the change, has the new timeout.
func TestOldEntriesKeepTheirTimeout(t *testing.T) {
	var all []plan.Conn
	for i := range 100 {
		all = append(all, plan.Conn{Start: event.Ktime(i) * s / 10, End: event.Ktime(i)*s/10 + 30*s, Cause: event.TimeoutGC, ID: uint64(i + 1), Proto: event.ProtoUDP})
	}
	r := plan.Read(conns{all, 0, 60 * s}, kernel())
	run := r.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: 5 * time.Second}}, After: 5 * time.Second})
	for at, want := range map[int]uint32{5: 51, 9: 50 + 41, 10: 50 + 50, 12: 50 + 29, 14: 50 + 9, 15: 50, 29: 50, 35: 0} {
		if got := run.Curve[at-1]; got != want && got+1 != want && got != want+1 {
			t.Errorf("%d entries after %d s, want %d", got, at, want)
		}
	}
}

func TestNeed(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	k := kernel()
	k.Max = 1000
	r := plan.Read(conns{poisson(rng, 1000, 30*s, 300*s), 0, 300 * s}, k)
	d, err := plan.Make(r, plan.WhatIf{}, triage.Memory{Object: 256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Make(r, plan.WhatIf{Factor: 1000}, triage.Memory{}); err == nil {
		t.Error("300 million entries fit")
	}
	if d.Need.Peak < 30_000 || d.Need.Peak > 33_000 {
		t.Errorf("%+v", d.Need)
	}
	if float64(d.Need.Limit)*0.7 < d.Need.Peak || d.Need.Limit%1024 != 0 || d.Need.Suggest != d.Need.Limit || d.Need.Buckets < d.Need.Limit {
		t.Errorf("%+v", d.Need)
	}
	if want := d.Need.Limit*(256+128) + 8*d.Need.Buckets; d.Bytes(d.Need.Limit, d.Need.Buckets) != want {
		t.Errorf("%d bytes, want %d", d.Bytes(d.Need.Limit, d.Need.Buckets), want)
	}
	if d.Then != nil {
		t.Error("a what-if that nobody asked for")
	}
}

func TestParseChanges(t *testing.T) {
	got, err := plan.ParseChanges("udp=10s, nf_conntrack_udp_timeout_stream=60,tcp_established=1h,tcp_timeout_time_wait=30s")
	want := []plan.Change{{Timer: plan.UDP, To: 10 * time.Second}, {Timer: plan.UDPStream, To: time.Minute}, {Timer: plan.Established, To: time.Hour}, {Timer: plan.TimeWait, To: 30 * time.Second}}
	if err != nil || !slices.Equal(got, want) {
		t.Error(got, err)
	}
	for _, bad := range []string{"", "udp", "udp=", "udp=0", "udp=1.5s", "udp=-1s", "tcp=3s", "udp=1s,udp_timeout=2s", "udp=9999999999", "udp=1h,"} {
		if got, err := plan.ParseChanges(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// A backend that tells no causes tells timeouts all the same, by how long entries were
// there; what was shorter ended otherwise, and ends so again.
func TestUnknownCause(t *testing.T) {
	var all []plan.Conn
	for i := range 100 {
		at := event.Ktime(i) * s / 10
		all = append(all, plan.Conn{Start: at, End: at + 35*s, ID: uint64(i + 1), Proto: event.ProtoUDP},
			plan.Conn{Start: at, End: at + 7*s, ID: uint64(i + 1000), Proto: event.ProtoUDP})
	}
	r := plan.Read(conns{all, 0, 200 * s}, kernel())
	if r.Lagless || r.Early > 0 {
		t.Errorf("lagless %v, early %d", r.Lagless, r.Early)
	}
	for timeout, want := range map[int]uint32{120: 100, 10: 0} {
		run := r.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: time.Duration(timeout) * time.Second}}})
		if got := run.Curve[89]; got != want {
			t.Errorf("udp=%ds: %d after 90 s, want %d", timeout, got, want)
		}
		if run.Peak < 150 {
			t.Errorf("udp=%ds: peak %d", timeout, run.Peak)
		}
	}
}
