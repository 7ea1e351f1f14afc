package trace

import (
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
)

// errorsOf counts what a check says against an account.
type errorsOf struct {
	testing.TB
	n int
}

func (e *errorsOf) Helper()               {}
func (e *errorsOf) Errorf(string, ...any) { e.n++ }

// balanced is an account in which everything agrees: 3 new entries, 2 dropped,
// one of the entries evicted by another, one made by user space.
func balanced() *Account {
	tuple := func(i uint16) event.Tuple {
		return event.Tuple{Src: netlab.ClientV4, Dst: netlab.ServerV4, Sport: i, Proto: 17}
	}
	a := &Account{NS: &netlab.NS{}, CountBefore: 5, Count: 8, rowsBefore: 5, Entries: 8}
	x := &a.Traced
	x.Alloc, x.Free, x.New, x.NewByUser, x.Taken = 4, 1, 3, 1, 7
	x.Reasons[event.TableFull], x.Causes[event.EarlyDrop] = 2, 1
	a.Kernel.Known = 1<<ctnl.NumCounters - 1
	a.Kernel.N[ctnl.StatDrop], a.Kernel.N[ctnl.StatEarlyDrop] = 2, 1
	a.Kernel.N[ctnl.StatInsert], a.Kernel.N[ctnl.StatFound] = 1, 7
	for i := range uint16(3) {
		a.Events = append(a.Events, event.Event{Kind: event.New, Orig: tuple(i)})
	}
	a.Events = append(a.Events, event.Event{Kind: event.New, ByUser: true, Orig: tuple(9)},
		event.Event{Kind: event.Drop, Reason: event.TableFull, Orig: tuple(3)}, event.Event{Kind: event.Drop, Reason: event.TableFull, Orig: tuple(4)},
		event.Event{Kind: event.Destroy, Cause: event.EarlyDrop, Orig: tuple(0), By: tuple(2)})
	return a
}

func wantOfBalanced() Want {
	return Want{
		New: 3, ByUser: 1, Reasons: Reasons{event.TableFull: 2}, Causes: Causes{event.EarlyDrop: 1},
		Kernel: Counters{ctnl.StatDrop: 2, ctnl.StatEarlyDrop: 1, ctnl.StatInsert: 1},
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	sound := balanced()
	sound.check(t, false)
	sound.Is(t, wantOfBalanced())
	for name, spoil := range map[string]func(*Account){
		"one allocation more":      func(a *Account) { a.Traced.Alloc++ },
		"one free not seen":        func(a *Account) { a.Traced.Free-- },
		"one insert not seen":      func(a *Account) { a.Traced.New-- },
		"one event lost":           func(a *Account) { a.Events = a.Events[1:] },
		"one event twice":          func(a *Account) { a.Events = append(a.Events, a.Events[4]) },
		"one drop not seen":        func(a *Account) { a.Kernel.N[ctnl.StatDrop]++ },
		"wrong reason":             func(a *Account) { a.Traced.Reasons[event.TableFull]--; a.Traced.Reasons[event.CTNoMem]++ },
		"wrong reason of an event": func(a *Account) { a.Events[4].Reason = event.CTNoMem },
		"wrong cause":              func(a *Account) { a.Traced.Causes[event.EarlyDrop]--; a.Traced.Causes[event.TimeoutLookup]++ },
		"nobody evicts":            func(a *Account) { a.Events[6].By = event.Tuple{} },
		"insert failed":            func(a *Account) { a.Kernel.N[ctnl.StatInsertFailed]++ },
		"clash":                    func(a *Account) { a.Kernel.N[ctnl.StatClashResolve]++ },
		"chain":                    func(a *Account) { a.Kernel.N[ctnl.StatChainTooLong]++ },
		"insert by user":           func(a *Account) { a.Kernel.N[ctnl.StatInsert]++ },
		"invalid":                  func(a *Account) { a.Kernel.N[ctnl.StatInvalid]++ },
		"icmp error":               func(a *Account) { a.Kernel.N[ctnl.StatError]++ },
		"nat search":               func(a *Account) { a.Kernel.N[ctnl.StatFound]++ },
		"one row more":             func(a *Account) { a.Entries++ },
		"counter missing":          func(a *Account) { a.Kernel.Known &^= 1 << ctnl.StatDrop },
	} {
		a, e := balanced(), &errorsOf{TB: t}
		spoil(a)
		if a.check(e, false); e.n == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestIsNamesAll(t *testing.T) {
	for name, spoil := range map[string]func(*Want){
		"new":     func(w *Want) { w.New++ },
		"by user": func(w *Want) { w.ByUser = 0 },
		"reason":  func(w *Want) { delete(w.Reasons, event.TableFull) },
		"cause":   func(w *Want) { w.Causes[event.TimeoutGC] = 1 },
		"counter": func(w *Want) { delete(w.Kernel, ctnl.StatInsert) },
		"found":   func(w *Want) { w.Kernel[ctnl.StatFound] = 6 },
	} {
		w, e := wantOfBalanced(), &errorsOf{TB: t}
		spoil(&w)
		if balanced().Is(e, w); e.n == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}
