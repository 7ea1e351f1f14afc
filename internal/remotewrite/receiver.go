package remotewrite

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"

	"github.com/ctsight/ctsight/internal/config"
)

// receiver is one that is sent to: a loop that gathers and a loop that sends, with
// the queue between them, so that none waits for the other.
type receiver struct {
	s     *Sender
	name  string // for logs and the label url: nothing secret in it
	log   *slog.Logger
	queue *queue
	stop  context.CancelFunc // nil until it runs

	settings atomic.Pointer[client]
	changed  [2]chan struct{} // a poke for each loop: there are new settings

	natives atomic.Bool // it takes native histograms, as far as is known

	// Of the loop that gathers, and then of the end.
	last  int64 // Unix ms of the last batch
	track tracker

	// Of the loop that sends.
	learned *client // what follows was learned of it
	kind    remote.WriteMessageType
	doubts  int      // that it takes native histograms
	calm    Account  // as it was when all was well
	trouble *Account // likewise, while it is not; else nil
	said    map[string]bool
}

func newReceiver(s *Sender, name string, c *client) *receiver {
	r := &receiver{s: s, name: name, log: s.o.Log.With("url", name), queue: newQueue(s.limits.bytes, s.limits.batches),
		changed: [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}, said: map[string]bool{}}
	r.settings.Store(c)
	r.natives.Store(true)
	return r
}

// set puts new settings into effect; what waits goes to where they say.
func (r *receiver) set(c *client) {
	old := r.settings.Swap(c)
	old.close()
	for _, ch := range r.changed {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (r *receiver) config() config.RemoteWrite { return r.settings.Load().cfg }

// run serves the receiver until ctx ends, and then for a moment more: what waits is
// tried once, and all series are told to have ended.
func (r *receiver) run(ctx context.Context) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(r.s.limits.finish):
			cancel()
		case <-out.Done():
		}
	})()
	var loops sync.WaitGroup
	loops.Go(func() { r.gather(ctx) })
	loops.Go(func() { r.send(ctx, out) })
	loops.Wait()
	r.end(out)
	r.settings.Load().close()
}

// gather fills the queue, at once and then each interval.
func (r *receiver) gather(ctx context.Context) {
	next := time.Now()
	for ctx.Err() == nil {
		r.push(r.families(), time.Now().UnixMilli())
		began := next
		for waiting := true; waiting; {
			if next = began.Add(r.config().Interval); time.Until(next) < 0 {
				next = time.Now() // it took too long, or the machine slept
			}
			waiting = r.pause(ctx, time.Until(next), r.changed[0])
		}
	}
}

// pause waits for a time, and says whether something came before it was over.
func (r *receiver) pause(ctx context.Context, d time.Duration, poke <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-poke:
		return true
	}
	return false
}

// families is what there is to tell now; when that is not known, nothing, as of a
// target that cannot be scraped.
func (r *receiver) families() []series {
	mfs, err := r.s.o.Gather(r.name)
	if err != nil && len(mfs) == 0 {
		r.log.Debug("nothing to send", "answer", err)
	}
	all := flatten(mfs, r.labels())
	if !r.natives.Load() {
		all = classic(all)
	}
	return all
}

func classic(all []series) []series {
	kept := all[:0]
	for _, s := range all {
		if s.native == nil {
			kept = append(kept, s)
		}
	}
	return kept
}

// labels are those of a target, as the server that scrapes it would give them.
func (r *receiver) labels() map[string]string {
	out := map[string]string{"job": "ctsight", "instance": r.s.o.Instance}
	for name, v := range r.config().ExternalLabels {
		out[name] = v
	}
	return out
}

// push queues series. Two batches in a row never have the same time: the second
// would be refused. A clock that goes back is the receiver's to judge.
func (r *receiver) push(now []series, at int64) {
	all := r.track.next(now)
	if len(all) == 0 {
		return
	}
	if at == r.last {
		at++
	}
	r.last = at
	b, err := pack(all, at)
	if err != nil {
		r.log.Error("remote write: cannot encode", "answer", err)
		return
	}
	r.queue.push(b)
}
