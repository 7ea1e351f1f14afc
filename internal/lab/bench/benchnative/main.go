// Command benchnative measures on the machine itself what reading costs: CPU time
// of the reading process per connection, how old events are when they are counted,
// and what it uses while nothing happens. Results go to standard output as JSON.
//
// A machine may allow no function hooks, as the one this was made on. Their rings
// are read all the same: we write what the programs would, two records a connection.
// What the backend does that this kernel does allow is measured beside it, with
// packets in namespaces of our own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
)

// auto is the source of the best backend that works here.
const auto = "auto"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchnative:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	source := flag.String("read", "", "be the reader of this source, nothing else")
	view := flag.String("view", "live", "what it counts by: once or live")
	delays := flag.Bool("delays", false, "note how old each event is")
	quiet := flag.Duration("idle", 10*time.Second, "how long to look at a reader without traffic")
	flag.Parse()
	if *source != "" {
		return read(ctx, *source, *view, *delays)
	}
	res, err := measureAll(ctx, *quiet)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(res)
}

func measureAll(ctx context.Context, quiet time.Duration) (res measure.Native, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return res, err
	}
	res = measure.Native{Kernel: unix.ByteSliceToString(u.Release[:]), CPUs: runtime.NumCPU(), Idle: map[string]float64{}}
	for _, x := range []struct {
		view string
		rate int
	}{{"once", 20_000}, {"once", 50_000}, {"once", 200_000}, {"live", 200_000}} {
		l, err := ofRings(ctx, x.view, x.rate)
		if err != nil {
			return res, fmt.Errorf("rings at %d/s: %w", x.rate, err)
		}
		res.Loads = append(res.Loads, l)
	}
	l, err := ofPackets(ctx, 20_000)
	if err != nil {
		return res, fmt.Errorf("packets: %w", err)
	}
	res.Loads, res.Backend = append(res.Loads, l), l.Source
	for _, source := range []string{measure.Rings, auto} {
		share, err := idle(ctx, source, quiet)
		if err != nil {
			return res, fmt.Errorf("idle %s: %w", source, err)
		}
		if source == auto {
			source = res.Backend
		}
		res.Idle[source] = share
	}
	return res, nil
}

// idle is the share of a CPU that a reader takes while nothing happens, after the
// seconds it needs to find that out.
func idle(ctx context.Context, source string, d time.Duration) (float64, error) {
	r, err := start(source, "live", false)
	if err != nil {
		return 0, err
	}
	sleep(ctx, 12*time.Second)
	used, err := r.during(func() error { sleep(ctx, d); return ctx.Err() })
	_, e := r.stop()
	return float64(used) / float64(d), errors.Join(err, e)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
