// Package demo plays a small incident in network namespaces of its own and
// tells what was traced of it: ordinary traffic, a burst, a port scan, a table
// driven full, and the ledger that must balance. It makes the traffic with
// netlab, so the truth is known, and is given a tracer; it writes the story as
// text and as one page of HTML. Flags and exit codes are for cmd.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// LabName is the name of the lab: its namespaces are LabName-client, -router
// and -server. One demo at a time can have it on a machine.
const LabName = "ctsight-demo"

// ErrInterrupted says that the demo was ended early.
var ErrInterrupted = errors.New("interrupted; the lab is removed and settings are as before")

// Tracer is what the demo needs of a pipeline.
type Tracer interface {
	Report() probe.Report
	Loss() probe.Loss
	Ledger(ctx context.Context, clock event.Clock, each func(*event.Event) error) (*agg.Doc, error)
	Close() error
}

// Options of a demo.
type Options struct {
	Out    io.Writer // the story as it happens
	Color  bool
	Kernel string // what the story calls this kernel
	Clock  event.Clock
	// Max is the nf_conntrack_max to set while the demo runs; 0 leaves the
	// machine's as it is.
	Max int
	// Open attaches to everything that happens in one network namespace.
	Open func(ctx context.Context, ns event.NetNS) (Tracer, error)
}

// show is a running demo.
type show struct {
	o      Options
	lab    *netlab.Router
	conn   *ctnl.Conn // to the router's table
	tracer Tracer
	rec    *recorder
	tell   *teller
	data   *Data
	plan   plan
}

// Run plays the demo. Whatever happens, the lab is gone and every setting is
// back when it returns.
func Run(ctx context.Context, o Options) (d *Data, err error) {
	s := &show{o: o, tell: &teller{w: o.Out, color: o.Color}, data: &Data{Kernel: o.Kernel}}
	defer func() {
		if cerr := s.close(); err == nil {
			err = cerr
		}
		if ctx.Err() != nil {
			err = ErrInterrupted
		}
	}()
	if err := s.build(ctx); err != nil {
		_ = s.tell.say(" not possible.\n")
		return nil, err
	}
	if err := s.play(ctx); err != nil {
		return nil, err
	}
	return s.data, nil
}

// build makes the lab and attaches to it.
func (s *show) build(ctx context.Context) error {
	s.tell.opening(s.o.Kernel)
	lab, err := netlab.NewRouter(netlab.Options{Name: LabName, ClientNets: []netip.Prefix{clients.net()}})
	if errors.Is(err, netlab.ErrInUse) {
		return errors.New("another ctsight demo is running on this machine; wait until it has ended")
	}
	if err != nil {
		return err
	}
	s.lab = lab
	if s.conn, err = ctnl.Dial(s.router()); err != nil {
		return err
	}
	if s.plan, err = makePlan(s.conn, s.o.Max); err != nil {
		return err
	}
	if s.tracer, err = s.o.Open(ctx, lab.R.Inode()); err != nil {
		return err
	}
	s.data.Backend = s.tracer.Report().Backend
	s.data.Exact = s.data.Backend == probe.Fentry || s.data.Backend == probe.Kprobe
	s.tell.attached(s.data)
	return nil
}

// router is the router's namespace as ctnl knows it.
func (s *show) router() ctnl.NS {
	return ctnl.NS{Inode: s.lab.R.Inode(), Name: s.lab.R.Name(), Path: fmt.Sprintf("/proc/self/fd/%d", s.lab.R.FD())}
}

func (s *show) close() error {
	var errs []error
	if s.tracer != nil {
		errs = append(errs, s.tracer.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.Close())
	}
	return errors.Join(errs...)
}

// play runs the acts while the ledger is kept.
func (s *show) play(ctx context.Context) error {
	s.rec = newRecorder(now(), s.tell.line)
	if err := s.ping(); err != nil {
		return err
	}
	acting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	type result struct {
		doc *agg.Doc
		err error
	}
	done := make(chan result, 1)
	tracing, end := context.WithCancel(ctx)
	defer end()
	go func() {
		doc, err := s.tracer.Ledger(tracing, s.o.Clock, s.rec.add)
		if err != nil {
			stop(err)
		}
		done <- result{doc, err}
	}()
	err := s.acts(acting)
	if err == nil {
		err = context.Cause(acting)
	}
	end()
	r := <-done
	if err = errors.Join(r.err, err); err != nil {
		return err
	}
	s.data.finish(s.rec, r.doc, s.lab.R.Inode(), s.o.Clock)
	return s.tell.ledger(s.data)
}

// acts plays them in order. A context that ends is seen by the caller.
func (s *show) acts(ctx context.Context) error {
	if err := s.first(ctx); err != nil {
		return err
	}
	for _, act := range []struct {
		name string
		play func(context.Context) error
	}{
		{"ordinary", s.ordinary}, {"burst", s.burst}, {"scan", s.scan}, {"full table", s.full},
	} {
		if ctx.Err() != nil {
			return nil
		}
		from := now()
		if err := act.play(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", act.name, err)
		}
		s.data.Acts = append(s.data.Acts, Act{Name: act.name, From: from.Sub(s.rec.start), To: now().Sub(s.rec.start)})
	}
	return s.tell.err
}

// patience is how long the demo waits for what it has sent to be traced.
const patience = 10 * time.Second

// ping sends one through the router before the ledger is opened. Its event
// waits to be told; when it is, the ledger is open and nothing is missed. (A
// packet under way while the counters are read would put them out by one.)
func (s *show) ping() error {
	_, err := s.lab.SendPackets(netlab.SendOptions{}, netlab.EchoRequest(netlab.ClientV4, netlab.ServerV4, 1, 1))
	return errors.Join(err, s.lab.Drain())
}

// first waits for the ping.
func (s *show) first(ctx context.Context) error {
	select {
	case <-s.rec.first:
		return nil
	case <-ctx.Done():
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the first ping was not traced within %v", patience)
	}
}

// settle returns when the router has dealt with all packets and all that was
// counted has been told.
func (s *show) settle(ctx context.Context) error {
	if err := s.lab.Drain(); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := pause(ctx, 30*time.Millisecond); err != nil {
			return err
		}
		if l := s.tracer.Loss(); l.Seen <= l.Delivered+l.Aggregated+l.Lost {
			return pause(ctx, 30*time.Millisecond) // the last one is delivered while it is counted
		}
	}
	return nil // the ledger will show what is missing
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// now is kernel monotonic time.
func now() event.Ktime {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return event.Ktime(ts.Nano())
}
