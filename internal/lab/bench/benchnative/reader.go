package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
)

// said is what a reader tells at its end.
type said struct {
	Backend string
	Told    measure.Tally
	Lost    uint64
	Delay   []int
}

// read is `ctsight top` without its pictures, until ctx ends. delays make it count
// each event at once.
func read(ctx context.Context, source, view string, delays bool) error {
	p, err := open(ctx, source)
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	w := p.NewWatch(clock, agg.CensusConfig{Dims: views[view]})
	fmt.Println("ready")
	var age *ages
	if delays {
		age = &ages{began: time.Now()}
		if age.at, err = probe.Now(); err != nil {
			return err
		}
		err = w.Run(ctx, age.note)
	} else {
		err = w.Run(ctx, nil)
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	totals := w.Top(agg.BySrc, agg.ColNew, 1, nil).Totals
	s := said{Backend: p.Report().Backend, Told: measure.Tally{New: int(totals.New)}, Lost: p.Loss().Lost, Delay: age.quantiles()}
	for _, c := range totals.Destroy {
		s.Told.Destroyed += int(c.Count)
	}
	return errors.Join(p.Close(), json.NewEncoder(os.Stdout).Encode(s))
}

func open(ctx context.Context, source string) (*pipeline.Pipeline, error) {
	if source != measure.Rings {
		return pipeline.Open(ctx, pipeline.Config{Backend: source, Sums: true})
	}
	src, err := probe.Open(probe.Options{Backend: probe.Fentry, Only: func(string) bool { return false }})
	if err != nil {
		return nil, err
	}
	return &pipeline.Pipeline{Source: src}, nil
}

// views are what `top` counts by: at the end of one picture, and live.
var views = map[string][]agg.Dim{
	"once": {agg.BySrc, agg.ByNetNS},
	"live": {agg.BySrc, agg.ByDst, agg.ByEdge, agg.ByPrefix, agg.ByNetNS},
}

// ages are how many events had which age, in steps, when they had been counted.
type ages struct {
	began time.Time // and the kernel's clock then; asking it costs a system call
	at    event.Ktime
	first event.Ktime // of an event
	steps [100_000]int
	n     int
	worst time.Duration
}

const ageStep = 10 * time.Microsecond

func (a *ages) note(e *event.Event) error {
	if a.first == 0 {
		a.first = e.Time
	}
	if e.Time.Sub(a.first) < measure.Waking {
		return nil
	}
	d := max(0, (a.at + event.Ktime(time.Since(a.began))).Sub(e.Time))
	a.steps[min(int(d/ageStep), len(a.steps)-1)]++
	a.n++
	a.worst = max(a.worst, d)
	return nil
}

func (a *ages) quantiles() []int {
	if a == nil {
		return nil
	}
	var out []int
	for _, q := range []int{50, 99} {
		sum := 0
		for i, n := range a.steps {
			if sum += n; sum*100 >= a.n*q {
				out = append(out, int((time.Duration(i+1) * ageStep).Microseconds()))
				break
			}
		}
	}
	return append(out, int(a.worst.Microseconds()))
}

// reader is the process that reads.
type reader struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

// start starts one and waits until it reads.
func start(source, view string, delays bool) (*reader, error) {
	r := &reader{cmd: exec.Command("/proc/self/exe", "-read", source, "-view", view, fmt.Sprint("-delays=", delays))}
	r.cmd.Stderr = os.Stderr
	r.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	r.out = bufio.NewReader(out)
	if _, err := r.out.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("reader of %s: %w", source, err), r.cmd.Wait())
	}
	return r, nil
}

// during is the CPU time of the reader, all its threads, while fn runs.
func (r *reader) during(fn func() error) (time.Duration, error) {
	before, err := r.used()
	if err != nil {
		return 0, err
	}
	if err := fn(); err != nil {
		return 0, err
	}
	after, err := r.used()
	return after - before, err
}

func (r *reader) used() (time.Duration, error) {
	clock := int32(^r.cmd.Process.Pid)<<3 | 2 // CPUCLOCK_SCHED of the process, as clock_getcpuclockid(3) has it
	var ts unix.Timespec
	err := unix.ClockGettime(clock, &ts)
	return time.Duration(ts.Nano()), err
}

// stop ends the reader and returns what it tells.
func (r *reader) stop() (s said, err error) {
	if err := r.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return s, err
	}
	err = json.NewDecoder(r.out).Decode(&s)
	return s, errors.Join(err, r.cmd.Wait())
}
