package pipeline

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// KeeperConfig says what a Keeper traces and keeps.
type KeeperConfig struct {
	Config
	Census   agg.CensusConfig
	Prefixes int // how many rows of Status.Prefixes
	Detection
	Flight *Flight // nil for none
	// Attached is called once when tracing has begun, before the first event is
	// read. An error ends Run.
	Attached func(*Pipeline) error
	// Problem is called with what goes wrong without an end to the tracing.
	Problem func(error)
}

// Keeper traces for as long as a process lives and can tell at any time what it
// knows: it waits for nf_conntrack, keeps a Watch, the ledger since the start, and
// the last ten minutes. Its methods may be called by any goroutine, before Run and
// after it too.
type Keeper struct {
	cfg   KeeperConfig
	clock event.Clock
	start time.Time

	use     sync.RWMutex // p may be used while it is held for reading
	mu      sync.Mutex   // guards what follows
	p       *Pipeline    // nil until tracing has begun, and when it has ended
	w       *Watch
	journal *journal
	base    probe.Counters // of all namespaces, when the watch began
	history []agg.Sample   // only ever appended to, or replaced
	ranks   ranks
	last    total     // as of the last sample
	beat    time.Time // when the last sample was taken

	arrivals arrivals // the sampler's

	recorder *recorder // nil without

	account balances
}

// ranks are the rows that Status shows of many, as of the last walk over all.
type ranks struct {
	holders, arrivals, losers, prefixes []agg.TopRow
}

// NewKeeper returns a Keeper that does nothing until Run.
func NewKeeper(clock event.Clock, cfg KeeperConfig) *Keeper {
	return &Keeper{cfg: cfg, clock: clock, start: time.Now().UTC(), account: balances{last: map[event.NetNS]differences{}, hidden: map[event.NetNS]int{}}}
}

// ErrWaiting says that nf_conntrack is not loaded yet.
var ErrWaiting = errors.New("waits for nf_conntrack to be loaded (modprobe nf_conntrack)")

// Run traces until ctx ends, then takes a last reading and leaves nothing behind.
func (k *Keeper) Run(ctx context.Context) error {
	cfg := k.cfg.Config
	cfg.Sums = true
	p, err := Open(ctx, cfg)
	switch {
	case err != nil && ctx.Err() != nil: // it had not begun
		return nil
	case err != nil:
		return err
	}
	defer k.stop(p)
	if err := k.begin(p); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { k.sample(ctx) })
	wg.Go(func() { k.balance(ctx, p) })
	return k.w.Run(ctx, nil)
}

// begin starts the watch, and the ledger with its first reading.
func (k *Keeper) begin(p *Pipeline) error {
	if err := k.account.begin(p); err != nil {
		return err
	}
	w, j := p.NewWatch(k.clock, k.cfg.Census), newJournal(p.sums != nil)
	w.keeps = j
	d := k.cfg.Detection
	if k.cfg.Flight != nil {
		d.Found = k.found
	}
	w.Detect(d)
	if err := k.fly(w); err != nil {
		return err
	}
	k.mu.Lock()
	k.p, k.w, k.journal = p, w, j
	for _, c := range w.first {
		k.base.Plus(&c)
	}
	k.beat = time.Now()
	k.mu.Unlock()
	if k.cfg.Attached != nil {
		return k.cfg.Attached(p)
	}
	return nil
}

// stop gives everything back.
func (k *Keeper) stop(p *Pipeline) {
	if k.w != nil {
		k.problem(k.w.Finish())
	}
	if r := k.flown(); r != nil {
		k.problem(r.land())
	}
	k.use.Lock()
	defer k.use.Unlock()
	k.mu.Lock()
	k.p = nil
	k.mu.Unlock()
	k.problem(p.Close())
}

func (k *Keeper) problem(err error) {
	if err != nil && k.cfg.Problem != nil {
		k.cfg.Problem(err)
	}
}

// hold returns the pipeline and its watch, nil while there is none. They stay
// until release is called.
func (k *Keeper) hold() (p *Pipeline, w *Watch, release func()) {
	k.use.RLock()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.p, k.w, k.use.RUnlock
}

// Ready says why nothing is traced, nil when all is well.
func (k *Keeper) Ready() error {
	p, _, release := k.hold()
	defer release()
	if p == nil || !attached(p.Report()) {
		return ErrWaiting
	}
	return nil
}

// attached says whether what makes the backend is in place: a module may have gone
// and taken the hooks with it.
func attached(r probe.Report) bool {
	for _, h := range r.Hooks {
		if h.Core && h.Backend == "" {
			return false
		}
	}
	return true
}

// Alive says when the keeper last took its sample, which it does each second while
// it traces; the zero time before that. It hangs when that is long ago.
func (k *Keeper) Alive() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.beat
}

// Top returns a picture of now: see Watch.Top.
func (k *Keeper) Top(by agg.Dim, c agg.Column, n int) (*agg.TopDoc, error) {
	p, w, release := k.hold()
	defer release()
	if p == nil {
		return nil, ErrWaiting
	}
	doc := w.Top(by, c, n, nil)
	if r := k.flown(); r != nil {
		doc.Findings = r.name(doc.Findings)
	}
	return doc, nil
}

// Problems returns what could not be looked at; after Run.
func (k *Keeper) Problems() []error {
	_, w, release := k.hold()
	defer release()
	if w == nil {
		return nil
	}
	return w.Problems()
}
