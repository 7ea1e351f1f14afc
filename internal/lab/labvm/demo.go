package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// pageName is the file that the demo writes, here or in the guest's /out.
const pageName = "ctsight-demo.html"

// codeCannot is ctsight's exit code for "not possible here".
const codeCannot = 3

// demoRun is one `labvm demo`.
type demoRun struct {
	bin            string
	stdout, stderr io.Writer
	guest          guestFlags
}

// runDemo runs the demo where that is possible: on this machine when its kernel takes the
// probes, else in a guest.
func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	d := &demoRun{stdout: stdout, stderr: stderr, guest: guestFlags{kernels: kernelFlag(vm.Kernels()[2:3])}}
	fs := newFlagSet("labvm demo", stderr)
	d.guest.register(fs, 5*time.Minute)
	fs.StringVar(&d.bin, "bin", "", "ctsight to run (default: bin/ctsight, built when it is not there)")
	guest := fs.Bool("guest", false, "in a guest even if this kernel takes the probes")
	if err := fs.Parse(args); err != nil {
		return codeUsage, err
	}
	if fs.NArg() > 0 {
		return codeUsage, fmt.Errorf("demo: unexpected %q", fs.Arg(0))
	}
	cleanup, err := d.findBinary(ctx)
	if err != nil {
		return codeFailed, err
	}
	defer cleanup()
	why := "asked for with -guest"
	if !*guest {
		var here bool
		if here, why = d.here(ctx); here {
			fmt.Fprintf(stderr, "This machine can run the demo itself: %s.\n\n", why)
			code, err := d.runHere(ctx)
			if code != codeCannot {
				return code, err
			}
			why = "the demo says why above"
		}
	}
	return d.runGuest(ctx, why)
}

// findBinary takes what was asked for or built before, and builds it otherwise.
func (d *demoRun) findBinary(ctx context.Context) (cleanup func(), err error) {
	cleanup = func() {}
	if d.bin != "" {
		_, err := os.Stat(d.bin)
		return cleanup, err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return cleanup, err
	}
	d.bin = filepath.Join(root, "bin", "ctsight")
	if _, err := os.Stat(d.bin); err == nil {
		return cleanup, nil
	}
	tmp, err := os.MkdirTemp("", "labvm-")
	if err != nil {
		return cleanup, err
	}
	d.bin = filepath.Join(tmp, "ctsight")
	return func() { os.RemoveAll(tmp) }, buildBinary(ctx, d.bin)
}

// verdict is what we read of the doctor's report.
type verdict struct {
	Backend  string   `json:"backend"`
	Warnings []string `json:"warnings"`
}

// here decides, and says why in a few words.
func (d *demoRun) here(ctx context.Context) (ok bool, why string) {
	if os.Geteuid() != 0 {
		return false, "not root, and tracing needs that (sudo make demo runs it here if the kernel allows)"
	}
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max"); errors.Is(err, os.ErrNotExist) {
		return true, "nf_conntrack is not loaded yet, so it has to be tried"
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, d.bin, "doctor", "-o", "json")
	cmd.Stdout = &out
	runErr := cmd.Run()
	return decide(out.Bytes(), runErr)
}

// decide reads the doctor's report.
func decide(report []byte, runErr error) (ok bool, why string) {
	var v verdict
	if err := json.Unmarshal(report, &v); err != nil {
		return false, fmt.Sprintf("ctsight doctor gives no report (%v)", errors.Join(runErr, err))
	}
	if slices.Contains([]string{"fentry", "kprobe"}, v.Backend) {
		return true, "its kernel takes the probes, backend " + v.Backend
	}
	if runErr == nil {
		return false, "this kernel has only the backend " + v.Backend + ", which cannot tell whose packets are lost"
	}
	if len(v.Warnings) == 0 {
		return false, "ctsight doctor finds no backend"
	}
	first, _, _ := strings.Cut(v.Warnings[0], "\n")
	return false, "this kernel does not take the probes. ctsight doctor says: " + strings.TrimRight(first, ".")
}

// runHere runs the demo on this machine; Ctrl-C reaches it as it reaches us.
func (d *demoRun) runHere(ctx context.Context) (int, error) {
	cmd := exec.CommandContext(ctx, d.bin, "demo", "--html", pageName)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, d.stdout, d.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second // it takes its namespaces away before it ends
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return codeFailed, err
	}
	return 0, nil
}

// runGuest boots a kernel of the matrix and runs the demo there.
func (d *demoRun) runGuest(ctx context.Context, why string) (int, error) {
	k := d.guest.kernels[0]
	fmt.Fprintf(d.stderr, "The demo runs in a virtual machine with Debian's kernel %s, because %s.\n", k.Name, why)
	if missing := vm.MissingPackages(); len(missing) > 0 {
		return codeFailed, fmt.Errorf("the virtual machine needs packages: apt-get install %s", strings.Join(missing, " "))
	}
	img, err := d.fetch(ctx, k)
	if err != nil {
		return codeVM, err
	}
	out, err := os.MkdirTemp("", "labvm-")
	if err != nil {
		return codeFailed, err
	}
	defer os.RemoveAll(out)
	o := d.guest.options(d.stderr)
	started := &onFirstWrite{w: d.stdout, do: func(t time.Duration) {
		fmt.Fprintf(d.stderr, "Booted after %.0f s.\n\n", t.Seconds())
	}, since: time.Now()}
	o.Stdout, o.Out = started, out
	fmt.Fprintln(d.stderr, "Booting it under QEMU; emulated, everything is slow, attaching most of all ...")
	res, err := vm.Run(ctx, img, vm.Spec{
		Files:   append([]vm.File{{Host: d.bin, Guest: guestBinary}}, d.guest.add...),
		Env:     d.guest.env,
		Dir:     "/out",
		Command: []string{"ctsight", "demo", "--html", pageName},
	}, o)
	if err != nil {
		return codeVM, err
	}
	if res.Code != 0 {
		return res.Code, nil
	}
	return d.keepPage(out)
}

// fetch gets the kernel, saying beforehand what takes long.
func (d *demoRun) fetch(ctx context.Context, k vm.Kernel) (vm.Image, error) {
	quick, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	slow := context.AfterFunc(quick, func() {
		if ctx.Err() == nil && errors.Is(quick.Err(), context.DeadlineExceeded) {
			fmt.Fprintln(d.stderr, "Fetching it from the mirror of this machine's apt, once, about 50 MB ...")
		}
	})
	defer slow()
	return vm.Fetch(ctx, k, d.stderr)
}

// keepPage copies the page to the current directory.
func (d *demoRun) keepPage(out string) (int, error) {
	b, err := os.ReadFile(filepath.Join(out, pageName))
	if err != nil {
		return codeFailed, fmt.Errorf("the guest has left no page: %w", err)
	}
	if err := os.WriteFile(pageName, b, 0o644); err != nil {
		return codeFailed, err
	}
	path, err := filepath.Abs(pageName)
	if err != nil {
		path = pageName
	}
	fmt.Fprintf(d.stderr, "\nThe page is here: %s\n", path)
	return 0, nil
}

// onFirstWrite tells once that output has begun.
type onFirstWrite struct {
	w     io.Writer
	do    func(time.Duration)
	since time.Time
	done  bool
}

func (o *onFirstWrite) Write(b []byte) (int, error) {
	if !o.done && len(b) > 0 {
		o.done = true
		o.do(time.Since(o.since))
	}
	return o.w.Write(b)
}
