// Command bench measures what tracing adds to the path of the traffic, in
// instructions, and writes the table into docs/bench.md. It boots a kernel of
// the lab under `-icount shift=0`, where everything is counted and nothing
// depends on the machine or its load, and ends with an error when the cost of
// a connection is over the gate.
//
//	go run ./internal/lab/bench
//
// What runs in the guest is internal/lab/bench/benchguest.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/lab/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options of the command line.
type options struct {
	kernel, out, taps, traffic string
	runs                       int
	gate                       float64
	complete, native           bool
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.kernel, "kernel", "6.1", "kernel of the lab")
	fs.StringVar(&o.out, "o", "docs/bench.md", "file whose tables are renewed; empty to print them")
	fs.StringVar(&o.taps, "taps", "", "comma-separated taps; empty is ours and its peers, all is every variant of ours too")
	fs.StringVar(&o.traffic, "traffic", "", "comma-separated kinds of traffic; empty is all")
	fs.IntVar(&o.runs, "runs", 2, "boots, to see whether they agree")
	fs.BoolVar(&o.complete, "complete", true, "measure, in the first boot, who is told of all events")
	fs.BoolVar(&o.native, "native", true, "measure the reader on this machine too, as root")
	fs.Float64Var(&o.gate, "gate", 1900, "most instructions per connection, insert and destroy together")
	if err := fs.Parse(args); err != nil {
		return err
	}
	results, err := o.measure(ctx, stdout)
	if err != nil {
		return err
	}
	var n *measure.Native
	if o.native {
		if n, err = native(ctx, stdout); err != nil {
			return err
		}
	}
	t, err := newTables(results, o.gate)
	if err != nil {
		return err
	}
	t.native = n
	if o.out == "" {
		_, err = io.WriteString(stdout, t.markdown())
	} else {
		err = t.update(o.out)
	}
	return errors.Join(err, t.verdict())
}

// measure boots the guest as often as asked for.
func (o options) measure(ctx context.Context, stdout io.Writer) ([]measure.Result, error) {
	ks, err := vm.SelectKernels(o.kernel)
	if err != nil {
		return nil, err
	}
	img, err := vm.Fetch(ctx, ks[0], os.Stderr)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ctsight-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join(dir, "benchguest")
	if err := build(ctx, "benchguest", guest); err != nil {
		return nil, err
	}
	var all []measure.Result
	for i := range o.runs {
		fmt.Fprintf(stdout, "boot %d of %d\n", i+1, o.runs)
		o.complete = o.complete && i == 0
		r, err := o.boot(ctx, img, guest, filepath.Join(dir, fmt.Sprint(i)), stdout)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// build compiles a program of ours; equal sources give equal bytes.
func build(ctx context.Context, name, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "github.com/ctsight/ctsight/internal/lab/bench/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, msg)
	}
	return nil
}

// native measures the reader on this machine.
func native(ctx context.Context, stdout io.Writer) (*measure.Native, error) {
	dir, err := os.MkdirTemp("", "ctsight-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "benchnative")
	if err := build(ctx, "benchnative", path); err != nil {
		return nil, err
	}
	fmt.Fprintln(stdout, "the reader on this machine")
	cmd := exec.CommandContext(ctx, path)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchnative: %w", err)
	}
	n := new(measure.Native)
	return n, json.Unmarshal(out, n)
}

// boot runs the guest once.
func (o options) boot(ctx context.Context, img vm.Image, guest, out string, stdout io.Writer) (r measure.Result, err error) {
	bpftrace, err := vm.Program(ctx, "bpftrace", "bpftrace")
	if err != nil {
		return r, err
	}
	spec := vm.Spec{
		Files:   append(bpftrace, vm.File{Host: guest, Guest: "/bin/benchguest"}),
		Env:     []string{"GODEBUG=asyncpreemptoff=1"}, // no signals in between
		Command: []string{"/bin/benchguest", "-taps", o.taps, "-traffic", o.traffic, fmt.Sprint("-complete=", o.complete)},
	}
	res, err := vm.Run(ctx, img, spec, vm.Options{ICount: true, Timeout: 10 * time.Minute, Stdout: stdout, Out: out})
	if err != nil {
		return r, err
	}
	if res.Code != 0 {
		return r, fmt.Errorf("benchguest ended with code %d", res.Code)
	}
	data, err := os.ReadFile(filepath.Join(out, "bench.json"))
	if err != nil {
		return r, fmt.Errorf("read results: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read results: %w", err)
	}
	return r, nil
}
