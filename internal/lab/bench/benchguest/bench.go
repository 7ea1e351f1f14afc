package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/netlab"
)

// bench is one run.
type bench struct {
	taps   []tap
	repeat int
	lab    *netlab.Router
	res    measure.Result
	cost   [measure.Packets]uint64
}

func (b *bench) build() (err error) {
	if b.lab, err = netlab.NewRouter(netlab.Options{NoSink: true}); err != nil {
		return err
	}
	if err := b.lab.A.EnableConntrack(); err != nil {
		return err
	}
	for _, ns := range []*netlab.NS{b.lab.A, b.lab.R} {
		if err := uplink(ns); err != nil {
			return err
		}
	}
	b.res.Kernel, err = kernelRelease()
	if err != nil {
		return err
	}
	src, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	b.res.Clocksource = strings.TrimSpace(string(src))
	b.res.Reading = reading()
	return err
}

// uplink makes a device that swallows packets and counts them as sent: they
// end in consume_skb, as on real hardware, not in kfree_skb.
func uplink(ns *netlab.NS) error {
	for _, args := range [][]string{
		{"link", "add", "up0", "type", "dummy"}, {"link", "set", "up0", "arp", "off", "multicast", "off", "up"},
		{"addr", "add", "10.99.0.1/24", "dev", "up0"}, {"route", "add", "10.77.0.0/16", "dev", "up0"},
	} {
		if _, err := ns.Run("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	err := unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:]), err
}

// reading is the cost of two readings of the counter.
func reading() uint64 {
	best := ^uint64(0)
	for range 100 {
		t := tsc()
		best = min(best, tsc()-t)
	}
	return best
}

func (b *bench) run(only []string) (measure.Result, error) {
	for _, k := range kinds {
		if only != nil && !slices.Contains(only, k.name) {
			continue
		}
		if err := b.traffic(k); err != nil {
			return b.res, fmt.Errorf("traffic %s: %w", k.name, err)
		}
	}
	return b.res, nil
}

// traffic measures all taps under one kind of traffic, each between two rounds
// without a tap.
func (b *bench) traffic(k kind) error {
	r, err := k.open(b.lab)
	if err != nil {
		return err
	}
	defer r.close()
	if _, err := b.round(r, nil); err != nil { // warm caches of the allocator
		return err
	}
	if k.name == "forward" {
		if err := b.expiry("none", r, nil); err != nil {
			return err
		}
	}
	bare := func(n int) error { return b.add(k.name, "none", n, r, nil) }
	for _, t := range b.taps {
		for n := range b.repeat {
			if err := bare(n); err != nil {
				return err
			}
			if err := b.one(k.name, t, n, r); err != nil {
				return fmt.Errorf("tap %s: %w", t.name, err)
			}
		}
	}
	return bare(b.repeat)
}

func (b *bench) one(traffic string, t tap, n int, r *road) error {
	in, err := t.open(r)
	if err != nil {
		return err
	}
	err = b.add(traffic, t.name, n, r, in)
	if rd, ok := in.(reader); ok && err == nil && n == 0 {
		events, lost, insns := rd.read()
		b.res.Readers = append(b.res.Readers, measure.Reader{Traffic: traffic, Tap: t.name, Events: events, Lost: lost, Insns: insns})
	}
	if err == nil && n == 0 && t.expiry && traffic == "forward" {
		err = b.expiry(t.name, r, in)
	}
	err = errors.Join(err, in.close())
	debug.FreeOSMemory() // the collector is off while we measure
	nap(300)             // let the kernel free programs and trampolines
	return err
}

func (b *bench) add(traffic, tap string, n int, r *road, in installed) error {
	m, err := b.round(r, in)
	if err != nil {
		return err
	}
	m.Traffic, m.Tap, m.Repeat = traffic, tap, n
	b.res.Rounds = append(b.res.Rounds, m)
	fmt.Printf("%-8s %-22s insert %8.1f min %8.1f median-packet %6.0f   destroy %8.1f min %8.1f\n", traffic, tap,
		median(m.Insert), slices.Min(m.Insert), m.InsertMedian, median(m.Destroy), slices.Min(m.Destroy))
	return nil
}

// round sends all batches and removes each.
func (b *bench) round(r *road, in installed) (m measure.Round, err error) {
	var packets []float64
	drain := func() error {
		nap(20)
		if in == nil {
			return nil
		}
		return in.drain()
	}
	if err := r.flush(); err != nil {
		return m, err
	}
	if err := drain(); err != nil {
		return m, err
	}
	empty := r.emptyFlush()
	if err := drain(); err != nil {
		return m, err
	}
	for n := range measure.Batches {
		sum := uint64(0)
		if err := r.send(n*measure.Packets, b.cost[:]); err != nil {
			return m, err
		}
		for _, c := range b.cost {
			sum += c - b.res.Reading
			packets = append(packets, float64(c-b.res.Reading))
		}
		m.Insert = append(m.Insert, float64(sum)/measure.Packets)
		if c := r.count(); c != measure.Packets {
			return m, fmt.Errorf("batch %d made %d entries, not %d", n, c, measure.Packets)
		}
		nap(20)
		t := tsc()
		if err := r.flushSend(); err != nil {
			return m, err
		}
		t = tsc() - t
		m.Destroy = append(m.Destroy, float64(int64(t)-int64(empty))/measure.Packets)
		if err := r.flushAck(); err != nil {
			return m, err
		}
		if err := drain(); err != nil {
			return m, err
		}
	}
	m.InsertMedian = median(packets)
	return m, nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
