package trace

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// Reasons, Causes and Counters are expectations; what is not named is 0.
type (
	Reasons  map[event.Reason]uint64
	Causes   map[event.Cause]uint64
	Counters map[ctnl.Counter]uint64
)

// Want is all that may have happened in a namespace: what is not named must
// not have happened.
type Want struct {
	New, ByUser uint64
	Reasons     Reasons
	Causes      Causes
	// Kernel are the kernel's statistics. search_restart is not compared,
	// and found only when it is named: how often NAT tries is its own affair.
	Kernel Counters
}

// Is asserts that this and nothing else has happened.
func (a *Account) Is(t testing.TB, w Want) {
	t.Helper()
	if a.Traced.New != w.New || a.Traced.NewByUser != w.ByUser {
		t.Errorf("netns %d: %d new and %d by user space, want %d and %d", a.NS.Inode(), a.Traced.New, a.Traced.NewByUser, w.New, w.ByUser)
	}
	for i, n := range a.Traced.Reasons {
		if want := w.Reasons[event.Reason(i)]; n != want {
			t.Errorf("netns %d: reason %s %d times, want %d", a.NS.Inode(), event.Reason(i), n, want)
		}
	}
	for i, n := range a.Traced.Causes {
		if want := w.Causes[event.Cause(i)]; n != want {
			t.Errorf("netns %d: cause %s %d times, want %d", a.NS.Inode(), event.Cause(i), n, want)
		}
	}
	for c := range ctnl.NumCounters {
		n, known := a.Kernel.Get(c)
		want, named := w.Kernel[c]
		if known && n != want && c != ctnl.StatSearchRestart && (c != ctnl.StatFound || named) {
			t.Errorf("netns %d: the kernel counts %s %d, want %d", a.NS.Inode(), c, n, want)
		}
	}
}

// AccountsFor asserts that each packet of the truth is accounted for exactly
// once, by source, destination, protocol and port: as a new entry, as lost, or
// as merged into another's. For truths whose packets are all the first of a
// flow, or meant to be.
func (a *Account) AccountsFor(t testing.TB, truth *netlab.Truth) {
	t.Helper()
	got := map[netlab.Key]uint64{}
	for _, e := range a.Of(firstPacket) {
		got[netlab.Key{Src: e.Orig.Src, Dst: e.Orig.Dst, Proto: e.Orig.Proto, DPort: e.Orig.Dport}]++
	}
	want := map[netlab.Key]uint64{}
	for _, k := range truth.Keys() {
		want[k], _ = truth.Of(k)
	}
	if !maps.Equal(got, want) {
		t.Errorf("netns %d: new and dropped %v, sent %v", a.NS.Inode(), got, want)
	}
}

// firstPacket says whether an event is the fate of a flow's first packet.
func firstPacket(e *event.Event) bool {
	return e.Kind == event.Drop || e.Kind == event.New && !e.ByUser ||
		e.Kind == event.Note && (e.Reason == event.ClashMerged || e.Reason == event.ClashNATReplyOnly)
}

// Of returns the events that fulfil a condition.
func (a *Account) Of(want func(*event.Event) bool) []event.Event {
	var out []event.Event
	for i := range a.Events {
		if want(&a.Events[i]) {
			out = append(out, a.Events[i])
		}
	}
	return out
}

// ByKind, ByReason and ByCause are conditions for Of and CountBy.
func ByKind(k event.Kind) func(*event.Event) bool {
	return func(e *event.Event) bool { return e.Kind == k }
}

// ByReason selects drops, notes and invalid packets.
func ByReason(r event.Reason) func(*event.Event) bool {
	return func(e *event.Event) bool { return e.Kind != event.New && e.Kind != event.Destroy && e.Reason == r }
}

// ByCause selects destroys.
func ByCause(c event.Cause) func(*event.Event) bool {
	return func(e *event.Event) bool { return e.Kind == event.Destroy && e.Cause == c }
}

// CountBy counts events by whatever key makes of them.
func CountBy[K comparable](events []event.Event, key func(*event.Event) K) map[K]uint64 {
	out := map[K]uint64{}
	for i := range events {
		out[key(&events[i])]++
	}
	return out
}

// Tuples are those of flows, for a look whether a tuple was ever sent.
func Tuples(flows ...netlab.Flows) map[event.Tuple]bool {
	out := map[event.Tuple]bool{}
	for _, f := range flows {
		for i := range f.Len() {
			out[f.Tuple(i)] = true
		}
	}
	return out
}

// Log prints what happened, for use while a test is written.
func (a *Account) Log(t testing.TB) {
	t.Helper()
	t.Logf("netns %d: count %d -> %d, %d rows, kernel %v", a.NS.Inode(), a.CountBefore, a.Count, a.Entries, a.Kernel.N)
	t.Logf("%v", Summary(a.Traced))
	events := slices.SortedFunc(slices.Values(a.Events), func(x, y event.Event) int { return cmp.Compare(x.Time, y.Time) })
	for i, e := range events {
		if i == 50 {
			t.Logf("... %d events more", len(events)-i)
			break
		}
		t.Logf("%d %s %s %s zone %d %v reply %v by %v %v %s", e.Time, e.Kind, e.Reason, e.Cause, e.Zone, e.Orig, e.Reply, e.By, e.Status.Names(), e.Task.Comm)
	}
}

// Summary writes counters without their zeros.
func Summary(c probe.Counters) map[string]uint64 {
	out := map[string]uint64{"new": c.New, "new by user": c.NewByUser, "chain by user": c.ChainByUser, "alloc": c.Alloc,
		"free": c.Free, "taken": c.Taken, "evicting packets": c.EvictingPackets, "ext post": c.ExtPost}
	for i, n := range c.Reasons {
		out["reason "+event.Reason(i).String()] = n
	}
	for i, n := range c.Causes {
		out["cause "+event.Cause(i).String()] = n
	}
	maps.DeleteFunc(out, func(_ string, n uint64) bool { return n == 0 })
	return out
}
