package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
)

// be makes this program one of those that listen, until SIGTERM. buffer is that of
// its socket, 0 for the default.
func be(name string, buffer int) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	switch name {
	case "ctsight":
		return beCtsight(ctx)
	case "ctnetlink":
		return beListener(ctx)
	case "ti-mo":
		return beTimo(ctx, buffer)
	}
	return fmt.Errorf("no listener %q", name)
}

func report(t measure.Tally) { fmt.Println("told", t.New, t.Destroyed) }

// beCtsight is `ctsight top` without its pictures: what it tells is in the census.
func beCtsight(ctx context.Context) error {
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	p, err := pipeline.Open(ctx, pipeline.Config{Backend: probe.Fentry})
	if err != nil {
		return err
	}
	var t measure.Tally
	var delays []time.Duration
	var first event.Ktime
	w := p.NewWatch(clock, agg.CensusConfig{})
	err = w.Run(ctx, func(e *event.Event) error {
		switch e.Kind {
		case event.New:
			t.New++
		case event.Destroy:
			t.Destroyed++
		}
		if first == 0 {
			first = e.Time
		}
		if e.Time.Sub(first) < measure.Waking {
			return nil
		}
		now, err := probe.Now()
		delays = append(delays, now.Sub(e.Time))
		return err
	})
	if err = errors.Join(err, p.Close()); err != nil {
		return err
	}
	report(t)
	if slices.Sort(delays); len(delays) > 0 {
		fmt.Println("delay", delays[len(delays)/2].Microseconds(), delays[len(delays)*99/100].Microseconds(), delays[len(delays)-1].Microseconds())
	}
	return nil
}

// beListener counts the messages of ctnetlink by their type, no more.
func beListener(ctx context.Context) error {
	fd, err := listenSocket(0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var t measure.Tally
	var b [8192]byte
	for ctx.Err() == nil {
		n, _, err := unix.Recvfrom(fd, b[:], 0)
		switch {
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n >= unix.NLMSG_HDRLEN && binary.NativeEndian.Uint16(b[4:])&0xff == typeDelete&0xff:
			t.Destroyed++
		default:
			t.New++
		}
	}
	report(t)
	return nil
}

// beTimo is the peer most Go programs use, as its documentation shows it. Its
// worker ends at the first error.
func beTimo(ctx context.Context, buffer int) error {
	c, err := conntrack.Dial(nil)
	if err != nil {
		return err
	}
	if buffer > 0 {
		if err := c.SetReadBuffer(buffer); err != nil {
			return err
		}
	}
	events := make(chan conntrack.Event, 1024)
	errs, err := c.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTNew, netfilter.GroupCTDestroy})
	if err != nil {
		return err
	}
	var t measure.Tally
	for {
		select {
		case e := <-events:
			if e.Type == conntrack.EventDestroy {
				t.Destroyed++
			} else {
				t.New++
			}
		case err := <-errs:
			fmt.Fprintln(os.Stderr, err)
		case <-ctx.Done():
			report(t)
			return nil
		}
	}
}
