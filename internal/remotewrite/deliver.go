package remotewrite

import (
	"context"
	"math/rand/v2"
	"net/http"
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

// attempt sends a batch once, or twice when it turns out what the receiver does not
// know. Not done means that the batch waits again, and for how long.
func (r *receiver) attempt(ctx context.Context, b *batch) (wait time.Duration, done bool) {
	r.relearn()
	natives := r.natives.Load()
	a := r.write(ctx, b, natives)
	if a.verdict == unknown {
		r.once("remote write: the receiver does not speak version 2, it gets version 1: no native histograms, no created timestamps", nil)
		r.kind, natives = remote.WriteV1MessageType, false
		a = r.write(ctx, b, false)
	}
	if natives && b.natives > 0 {
		a, natives = r.doubt(ctx, b, a)
	}
	if a.verdict == again {
		r.failing(a.err, "tried again")
		r.queue.putBack()
		r.tellFull()
		r.kind = remote.WriteV2MessageType // it may come back as a newer one
		return a.wait, false
	}
	r.natives.Store(r.kind == remote.WriteV2MessageType && r.doubts < sure)
	sent, failed := b.count(a, natives)
	if failed > 0 {
		r.failing(a.err, "dropped")
	}
	r.queue.landed(sent, failed, sent > 0)
	if failed == 0 {
		r.well()
	}
	return 0, true
}

// relearn forgets what is known of a receiver after a reload.
func (r *receiver) relearn() {
	if c := r.settings.Load(); c != r.learned {
		r.learned, r.kind, r.doubts = c, remote.WriteV2MessageType, 0
		r.natives.Store(true)
		clear(r.said)
	}
}

func (r *receiver) write(ctx context.Context, b *batch, natives bool) answer {
	message, err := b.encode(r.kind, natives)
	if err != nil {
		return answer{verdict: refused, err: err}
	}
	return r.settings.Load().write(ctx, r.kind, message)
}

// sure is after how many messages in a row that were taken without native histograms
// only it is certain that it was because of them.
const sure = 2

// doubt finds out whether a receiver takes no native histograms. One that says so
// properly has written all but them. Prometheus 3.5 without the feature
// native-histograms answers 500 and writes nothing: it would be asked for ever.
func (r *receiver) doubt(ctx context.Context, b *batch, a answer) (answer, bool) {
	switch {
	case a.verdict == taken:
		r.doubts = 0
		return a, true
	case a.verdict == refused && a.told && a.written.Samples == b.floats && a.written.Histograms == 0:
		a.verdict, r.doubts = taken, sure
	case a.status == http.StatusInternalServerError:
		without := r.write(ctx, b, false)
		if without.verdict != taken {
			return a, true
		}
		without.err, a = a.err, without
		r.doubts++
	default:
		return a, true
	}
	if r.doubts == sure {
		r.once("remote write: the receiver takes no native histograms, it gets classic ones only", a.err)
	}
	return a, false
}

// count says what became of the samples of a batch: the headers of version 2 know.
func (b *batch) count(a answer, natives bool) (sent, failed int) {
	offered := b.floats
	if natives {
		offered += b.natives
	}
	switch {
	case a.told:
		sent = min(max(0, a.written.AllSamples()), offered)
	case a.verdict == taken:
		sent = offered
	}
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
