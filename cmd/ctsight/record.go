package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/record/flight"
)

type recordFlags struct {
	file    string
	limit   time.Duration
	size    string
	bytes   int64
	ring    string
	inRing  int64
	age     time.Duration
	invalid bool
}

func newRecord(g *globals) *cobra.Command {
	var r recordFlags
	cmd := &cobra.Command{
		Use:   "record -o FILE [FILTER]",
		Short: "capture to a file, for --from of other commands and for ctsight export",
		Long: `What the kernel tells is written to a file as it happens, with the state of the tables
once a second and what was found out about contacts, so that detect --from tells of it
what it would have told then. What is flushed, once a second, is there whatever becomes of
this process.

With --ring it goes on for ever in as much room: FILE is a directory, of whose files the
oldest make room for new ones.

Traffic does not wait for the disk, and neither does the tracing: what finds no room is
counted, and its place in the file says so. When the disk is full, recording goes on as
soon as there is room.`,
		Example: `  ctsight record -o night.ctsight --for 8h --size 2G
  ctsight record -o syn.ctsight 'dst 10.0.0.53 and proto udp'
  ctsight record -o /var/lib/ctsight/ring --ring 2G --age 24h
  ctsight detect --from night.ctsight`,
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&r.file, "output", "o", "", "the file, which must not be there yet")
	f.DurationVar(&r.limit, "for", 0, "end after this time (default: until Ctrl-C)")
	f.StringVar(&r.size, "size", "", "end when the file has this size, as 500M or 2G (default: no bound)")
	f.StringVar(&r.ring, "ring", "", "keep the newest so many bytes, as 2G, in a directory of files")
	f.DurationVar(&r.age, "age", 0, "with --ring: keep nothing that is older (default: whatever there is room for)")
	f.BoolVar(&r.invalid, "invalid", false, "also packets that conntrack calls invalid (hooks every packet)")
	return cmd
}

func (r *recordFlags) check() (err error) {
	if r.file == "" {
		return fmt.Errorf("%w: record needs -o FILE", errUsage)
	}
	if r.size != "" {
		if r.bytes, err = parseSize(r.size); err != nil {
			return fmt.Errorf("%w: --size %w", errUsage, err)
		}
	}
	if r.ring != "" {
		if r.inRing, err = parseSize(r.ring); err != nil {
			return fmt.Errorf("%w: --ring %w", errUsage, err)
		}
	}
	switch {
	case r.size != "" && r.ring != "":
		return fmt.Errorf("%w: --size ends a recording, and one with --ring has no end: give one of them", errUsage)
	case r.age != 0 && r.ring == "", r.age < 0:
		return fmt.Errorf("%w: --age is how old what is in a --ring may get", errUsage)
	case r.inRing != 0 && r.inRing < leastRing:
		return fmt.Errorf("%w: --ring %q: 1M at least", errUsage, r.ring)
	}
	return nil
}

const leastRing = 1 << 20

// tape is what is recorded to.
type tape struct {
	*capture.Recorder
	stats func() capture.Stats
	close func(ledger json.RawMessage) error
}

// open makes the file, or takes the directory.
func (r *recordFlags) open(header func() capture.Header) (*tape, error) {
	if r.inRing > 0 {
		ring, err := flight.Open(flight.Config{Dir: r.file, Bytes: r.inRing, Age: r.age, Header: header})
		if err != nil {
			return nil, err
		}
		return &tape{ring.Recorder(), func() capture.Stats { s := ring.Stats(); s.Bytes = s.InRing; return s.Stats },
			func(json.RawMessage) error { return ring.Close() }}, nil
	}
	file, err := capture.Create(r.file, header())
	if err != nil {
		return nil, err
	}
	rec := capture.NewRecorder(file)
	return &tape{rec, rec.Stats, rec.Close}, nil
}

// parseSize reads a number of bytes with K, M, G or T, powers of 1024.
func parseSize(s string) (int64, error) {
	number, shift := s, 0
	if i := strings.IndexAny(s, "KMGTkmgt"); i >= 0 && i == len(s)-1 {
		number, shift = s[:i], 10*(1+strings.IndexByte("KMGT", s[i]&^0x20))
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q: a number of bytes above 0, as 500M or 2G", s)
	}
	return n << shift, nil
}

func (r *recordFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := errors.Join(r.check(), g.check()); err != nil {
		return err
	}
	flt, err := g.filter(args)
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := g.open(ctx, pipeline.Config{Filter: flt, Invalid: r.invalid, Sums: true})
	if err != nil {
		return err
	}
	w := p.NewWatch(clock, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}})
	w.Detect(pipeline.Detection{})
	rec, err := r.open(func() capture.Header { return w.CaptureHeader(version()) })
	if err != nil {
		return errors.Join(err, p.Close())
	}
	w.Record(rec.Recorder)
	if r.limit > 0 {
		defer time.AfterFunc(r.limit, cancel).Stop()
	}
	go r.watch(ctx, g, rec, cancel)
	err = errors.Join(w.Run(ctx, nil), w.Finish())
	_, found := w.Findings()
	loss := p.Loss()
	ledger, _ := json.Marshal(struct { // numbers only
		Seen, Delivered, Aggregated, Lost uint64
	}{loss.Seen, loss.Delivered, loss.Aggregated, loss.Lost})
	err = errors.Join(err, rec.close(ledger), p.Close())
	g.warn(w.Problems())
	s := rec.stats()
	told := uint64(0)
	for _, c := range found {
		told += c.Count
	}
	g.logger().Info("recorded", "file", r.file, "events", s.Events, "bytes", s.Bytes, "lost", s.Lost+loss.Lost, "findings", told)
	return err
}

// watch ends the recording when it has its size, and says what hinders it.
func (r *recordFlags) watch(ctx context.Context, g *globals, rec *tape, enough func()) {
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	var failed error
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := rec.stats()
		if r.bytes > 0 && s.Bytes >= r.bytes {
			enough()
			return
		}
		if (s.Err == nil) != (failed == nil) {
			if failed = s.Err; failed != nil {
				g.logger().Warn("nothing is recorded until the file can be written again; what is missing is counted", "err", failed)
			} else {
				g.logger().Info("it is recorded again", "lost", s.Lost)
			}
		}
	}
}
