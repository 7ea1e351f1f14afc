package pipeline

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/forecast"
	"github.com/ctsight/ctsight/internal/probe"
)

const (
	// minSteps is how many steps a forecast needs to be shown.
	minSteps = 2
	// sampleWant and sampleBuckets bound what is looked at in a second: live
	// entries, and buckets of the hash table, most of which may be empty.
	sampleWant    = 2048
	sampleBuckets = 1 << 14
)

// walker is a Source that can read the hash table.
type walker interface {
	Walk(from, until uint32, fn func(*probe.Peek) error) (probe.Walked, error)
}

// feed counts what a forecast learns from. The lock is held.
func (w *Watch) feed(e *event.Event) {
	born := e.Kind == event.New || e.ReplyOnly
	if !born && e.Kind != event.Destroy {
		return
	}
	if f := w.feedOf(e.NetNS); born {
		f.New(e.Time)
	} else {
		f.Destroy(e)
	}
}

// feedOf returns what the forecast of a namespace learns from. The lock is held.
func (w *Watch) feedOf(ns event.NetNS) *forecast.Feed {
	if w.recent.feed == nil || w.recent.ns != ns {
		f := w.feeds[ns]
		if f == nil {
			f = &forecast.Feed{}
			w.feeds[ns] = f
		}
		w.recent.ns, w.recent.feed = ns, f
	}
	return w.recent.feed
}

// forecast takes a step of every table.
func (w *Watch) forecast() {
	tables := w.all()
	var entries uint64
	for _, t := range tables {
		entries += uint64(t.fill.Count)
	}
	samples := w.sample(entries)
	for _, t := range tables {
		if t.err != nil || t.fill.Max == 0 {
			continue
		}
		if t.forecaster == nil {
			t.forecaster = forecast.New(forecast.Config{Timeouts: timeouts(t.ns.Timeouts())})
		}
		w.lock()
		var s forecast.Step
		if f := w.feeds[t.ns.Inode]; f != nil {
			s = f.Step(now(), uint64(t.fill.Count), uint64(t.fill.Max), samples[t.ns.Inode])
		} else {
			s = forecast.Step{At: now(), Entries: uint64(t.fill.Count), Max: uint64(t.fill.Max), Sample: samples[t.ns.Inode]}
		}
		w.mu.Unlock()
		out := t.forecaster.Step(s)
		w.nets.Lock()
		if is := w.tables[t.ns.Inode]; is != nil {
			is.forecaster, is.forecast, is.steps = t.forecaster, out, t.steps+1
		}
		w.nets.Unlock()
	}
	w.forecastPools(tables)
}

// sample looks at live entries in a few buckets of the table, which all
// namespaces share. Entries are spread over it by a keyed hash, so that any
// buckets are a fair sample.
func (w *Watch) sample(entries uint64) map[event.NetNS][]forecast.Sample {
	p, ok := w.p.Source.(walker)
	if !ok || entries == 0 || w.walkErr != nil {
		return nil
	}
	size := uint64(w.buckets)
	if size == 0 {
		size = sampleBuckets
	}
	n := min(max(64, size*sampleWant/entries), sampleBuckets, size)
	from := uint32(rand.Uint64N(size - n + 1))
	var seen []probe.Peek
	walked, err := p.Walk(from, from+uint32(n), func(q *probe.Peek) error {
		if len(seen) < 4*sampleWant {
			seen = append(seen, *q)
		}
		return nil
	})
	if errors.Is(err, probe.ErrResized) {
		return nil // next second again
	}
	if w.walkErr = err; err != nil {
		return nil
	}
	w.buckets = walked.Buckets
	out := map[event.NetNS][]forecast.Sample{}
	at := now()
	w.lock()
	defer w.mu.Unlock()
	for _, q := range seen {
		s := forecast.Sample{Class: forecast.ClassOf(q.Orig.Proto, q.Status, q.TCPState), Age: forecast.Unknown, Left: q.Timeout}
		if t, ok := w.census.Born(q.Ptr); ok {
			s.Age = max(0, at.Sub(t))
		}
		out[q.NetNS] = append(out[q.NetNS], s)
	}
	return out
}

// timeouts are the sysctls of the classes, in seconds.
func timeouts(sysctl map[string]int) (out [forecast.NumClasses]time.Duration) {
	for c, name := range map[forecast.Class]string{
		forecast.TCPUnreplied: "tcp_timeout_syn_sent", forecast.TCPReplied: "tcp_timeout_syn_recv", forecast.TCPAssured: "tcp_timeout_established",
		forecast.TCPClosing: "tcp_timeout_time_wait", forecast.UDPUnreplied: "udp_timeout", forecast.UDPReplied: "udp_timeout",
		forecast.UDPAssured: "udp_timeout_stream", forecast.ICMP: "icmp_timeout", forecast.Other: "generic_timeout",
	} {
		out[c] = time.Duration(sysctl[name]) * time.Second
	}
	return out
}

// inSeconds is nil for never.
func inSeconds(d time.Duration) *float64 {
	if d >= forecast.Never {
		return nil
	}
	s := d.Seconds()
	return &s
}
