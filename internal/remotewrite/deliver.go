package remotewrite

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
)

// send empties the queue until ctx ends; out is for what is under way by then.
func (r *receiver) send(ctx, out context.Context) {
	back := backoff{min: r.s.limits.backoffMin, max: r.s.limits.backoffMax}
	for ctx.Err() == nil {
		b, ok := r.queue.take()
		if !ok {
			select {
			case <-ctx.Done():
			case <-r.queue.filled:
			}
			continue
		}
		wait, done := r.attempt(out, &b)
		if done {
			back.reset()
			continue
		}
		if r.pause(ctx, max(back.next(), wait), r.changed[1]) {
			back.reset()
		}
	}
}

// attempt sends a batch once, or twice when it turns out which version of the
// protocol to speak. Not done means that the batch waits again, and for how long.
func (r *receiver) attempt(ctx context.Context, b *batch) (wait time.Duration, done bool) {
	a := r.write(ctx, b)
	if a.verdict == unknown {
		r.once("remote write: the receiver does not speak version 2, it gets version 1: no native histograms, no created timestamps", nil)
		r.kind = remote.WriteV1MessageType
		r.natives.Store(false)
		a = r.write(ctx, b)
	}
	if a.verdict == again {
		r.failing(a.err, "tried again")
		r.queue.putBack()
		r.tellFull()
		r.kind = remote.WriteV2MessageType // it may come back as a newer one
		return a.wait, false
	}
	sent, failed := r.count(b, a)
	if failed > 0 {
		r.failing(a.err, "dropped")
	}
	r.queue.landed(sent, failed, sent > 0)
	if failed == 0 {
		r.well()
	}
	return 0, true
}

func (r *receiver) write(ctx context.Context, b *batch) answer {
	message, err := b.encode(r.kind, r.natives.Load())
	if err != nil {
		return answer{verdict: refused, err: err}
	}
	return r.settings.Load().write(ctx, r.kind, message)
}

// count says what became of the samples of a batch: the headers know, and a receiver
// that takes no native histograms is not sent any more of them.
func (r *receiver) count(b *batch, a answer) (sent, failed int) {
	offered := b.floats
	if r.natives.Load() {
		offered += b.natives
	}
	switch {
	case a.told:
		sent = min(max(0, a.written.AllSamples()), offered)
	case a.verdict == taken:
		sent = offered
	}
	if a.told && a.verdict == refused && a.written.Samples == b.floats && a.written.Histograms == 0 && offered > b.floats {
		r.once("remote write: the receiver takes no native histograms, it gets classic ones only", a.err)
		r.classic = true
		offered = sent
	}
	r.natives.Store(r.kind == remote.WriteV2MessageType && !r.classic)
	return sent, offered - sent
}

// once says what need not be said again.
func (r *receiver) once(text string, err error) {
	if r.said[text] {
		return
	}
	r.said[text] = true
	if err != nil {
		r.log.Warn(text, "answer", err)
		return
	}
	r.log.Warn(text)
}

// failing says once that something is wrong.
func (r *receiver) failing(err error, what string) {
	if r.trouble != nil {
		return
	}
	r.trouble = new(r.calm)
	if err == nil {
		r.log.Warn("remote write: the receiver took only a part of the samples")
		return
	}
	r.log.Warn("remote write: the receiver takes no samples: "+what, "answer", err)
}

// full is said once per trouble.
const full = "remote write: the queue is full: the oldest samples are dropped"

func (r *receiver) tellFull() {
	if r.queue.look().Dropped > r.trouble.Dropped {
		r.once(full, nil)
	}
}

// well says that the trouble is over, and what it has cost.
func (r *receiver) well() {
	now := r.queue.look()
	r.calm = now
	if r.trouble == nil {
		return
	}
	r.log.Info("remote write: the receiver takes samples again", "dropped", now.Dropped-r.trouble.Dropped, "refused", now.Failed-r.trouble.Failed)
	r.trouble = nil
	delete(r.said, full)
}

// end tells that all series have ended. What has to be tried again now is given up.
// There is no last reading: who counts may have gone before us.
func (r *receiver) end(ctx context.Context) {
	r.push(nil, time.Now().UnixMilli())
	for {
		b, ok := r.queue.take()
		if !ok {
			return
		}
		if _, done := r.attempt(ctx, &b); !done {
			break
		}
	}
	before := r.queue.look()
	r.queue.drop()
	r.log.Warn("remote write: samples given up at the end", "samples", before.Pending)
}

// backoff is how long to wait for the next attempt: twice as long each time, and a
// random half of it less, so that a fleet does not come back all at once.
type backoff struct{ min, max, now time.Duration }

func (b *backoff) reset() { b.now = 0 }

func (b *backoff) next() time.Duration {
	b.now = min(max(2*b.now, b.min), b.max)
	return b.now/2 + rand.N(b.now/2+1)
}
