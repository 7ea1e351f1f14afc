package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

const (
	balanceEvery = 15 * time.Second
	// balanceShare of the time at most one part goes into readings: they look at
	// every descriptor of the machine.
	balanceShare = 200
	ledgerFresh  = time.Second // a reading that is younger will do
)

// balances are the comparisons with the kernel's counters since the start.
type balances struct {
	mu     sync.Mutex // held while a reading is taken
	before map[event.NetNS]reading
	from   event.Ktime
	after  map[event.NetNS]reading
	to     event.Ktime
	took   time.Duration
	hidden map[event.NetNS]int                                                // how often in a row
	told   bool                                                               // of the first
	note   func(all map[event.NetNS]reading, at, done event.Ktime, last bool) // of who records; may be nil

	known sync.Mutex // guards last
	last  map[event.NetNS]differences
}

// differences are traced minus kernel of a namespace, where both are known.
type differences map[agg.Counter]int64

// begin takes the first reading.
func (b *balances) begin(p *Pipeline) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.from = now()
	b.before, err = p.readings()
	return err
}

// balance reads now and then until ctx ends.
func (k *Keeper) balance(ctx context.Context, p *Pipeline) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(balanceEvery, balanceShare*k.account.cost())):
			k.problem(k.account.read(p))
		}
	}
}

func (b *balances) cost() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.took
}

// read takes a reading and what it says. Of namespaces that are gone, or whose
// numbers went to others, the kernel's side is gone: what follows begins anew.
func (b *balances) read(p *Pipeline) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readNow(p)
}

// readNow is read with the lock held. That namespaces hide is a problem once.
func (b *balances) readNow(p *Pipeline) error {
	if !conntrackLoaded() { // the last reading stands
		return nil
	}
	begin, at := time.Now(), now()
	after, err := p.readings()
	if err != nil {
		return err
	}
	if b.note != nil {
		b.note(after, at, now(), false)
	}
	b.after, b.to, b.took = after, now(), time.Since(begin)
	turns := p.hooked().seesTurns()
	fresh := map[event.NetNS]reading{}
	var doc agg.Doc
	for ns, a := range after {
		why := succession(b.before[ns], a, turns)
		b.hides(ns, errors.Is(why, errHidden) && !quiet(exact(a.ours, b.before[ns].ours), agg.KernelDelta{}))
		if why == nil && !a.torn {
			fresh[ns] = a
		} else if a.exists && a.err == nil && !a.torn {
			b.before[ns] = a // compared from now on
		}
	}
	p.hooked().account(&doc, b.before, fresh)
	maps.DeleteFunc(b.before, func(ns event.NetNS, _ reading) bool { _, ok := after[ns]; return !ok })
	maps.DeleteFunc(b.hidden, func(ns event.NetNS, _ int) bool { _, ok := after[ns]; return !ok })
	b.learn(doc.Balance, after)
	return b.tell()
}

// hides notes whether a namespace is hidden. One that begins while namespaces are
// listed looks like that too, once.
func (b *balances) hides(ns event.NetNS, yes bool) {
	if yes {
		b.hidden[ns]++
	} else {
		delete(b.hidden, ns)
	}
}

// tell returns a namespace that is hidden, the first time there is one.
func (b *balances) tell() error {
	for ns, n := range b.hidden {
		if n > 1 && !b.told {
			b.told = true
			return fmt.Errorf("netns %s: %w", ns, errHidden)
		}
	}
	return nil
}

// learn keeps what a reading says, and forgets namespaces that are gone.
func (b *balances) learn(rows []agg.BalanceRow, after map[event.NetNS]reading) {
	b.known.Lock()
	defer b.known.Unlock()
	maps.DeleteFunc(b.last, func(ns event.NetNS, _ differences) bool { return !after[ns].exists })
	for _, r := range rows {
		if r.Difference == nil {
			continue
		}
		if b.last[r.NetNS] == nil {
			b.last[r.NetNS] = differences{}
		}
		b.last[r.NetNS][r.Counter] = *r.Difference
	}
}

// sums are the differences of all namespaces. Counters that were not compared yet
// are missing.
func (b *balances) sums() (out []agg.CounterDifference) {
	b.known.Lock()
	defer b.known.Unlock()
	all := differences{}
	for _, d := range b.last {
		for c, n := range d {
			all[c] += n
		}
	}
	for c := range agg.NumCounters {
		if n, ok := all[c]; ok {
			out = append(out, agg.CounterDifference{Counter: c, Difference: n})
		}
	}
	return out
}

// Ledger returns the account of the time since the start.
func (k *Keeper) Ledger(context.Context) (*agg.Doc, error) {
	p, w, release := k.hold()
	defer release()
	if p == nil {
		return nil, ErrWaiting
	}
	b := &k.account
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.after == nil || now()-b.to > event.Ktime(ledgerFresh) {
		if err := b.readNow(p); errors.Is(err, errHidden) {
			k.problem(err)
		} else if err != nil {
			return nil, err
		}
	}
	if b.after == nil {
		return nil, ErrWaiting
	}
	doc := &agg.Doc{From: k.clock.At(b.from), To: k.clock.At(b.to), Backend: p.Report().Backend}
	w.lock()
	doc.Snapshot = k.journal.ledger.Snapshot()
	doc.Totals = w.census.Brief(w.now()).Totals
	w.mu.Unlock()
	p.hooked().account(doc, b.before, b.after)
	doc.Loss = p.loss()
	return doc, nil
}
