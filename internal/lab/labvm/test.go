package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// testRun is one `labvm test`.
type testRun struct {
	guestFlags
	patterns   []string
	testArgs   []string // for every test binary
	dir        string   // compiled binaries
	pkgs       []pkg
	failures   int // packages that did not compile
	stdout     io.Writer
	stderr     io.Writer
	pkgTimeout time.Duration
	parallel   int
	again      bool
}

// runTest compiles the tests once and runs them in every chosen kernel.
func runTest(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	t := &testRun{stdout: &lines{w: stdout}, stderr: &lines{w: stderr}, guestFlags: guestFlags{kernels: vm.Kernels()}}
	if err := t.parse(args); err != nil {
		return codeUsage, err
	}
	var err error
	if t.dir, err = os.MkdirTemp("", "labvm-"); err != nil {
		return codeFailed, err
	}
	defer os.RemoveAll(t.dir)
	files, err := t.build(ctx)
	if err != nil {
		return codeFailed, err
	}
	total, err := t.runGuests(ctx, plan(t.kernels, tasksOf(t.pkgs)), files)
	total.failed += t.failures
	fmt.Fprintln(stdout, total)
	if err != nil || total.failed > 0 {
		return codeFailed, err
	}
	return 0, nil
}

// parse reads flags and package patterns; arguments after -- go to the test binaries.
func (t *testRun) parse(args []string) error {
	fs := newFlagSet("labvm test", t.stderr)
	t.register(fs, time.Hour)
	pattern := fs.String("run", "", "run only tests matching this expression")
	tests := fs.String("tests", "", "package patterns, separated by spaces (default ./...)")
	short := fs.Bool("short", false, "tell long tests to be short")
	fs.DurationVar(&t.pkgTimeout, "test.timeout", 20*time.Minute, "limit for one package")
	fs.BoolVar(&t.again, "again", false, "run tests that failed once more at the end, in fresh guests")
	fs.IntVar(&t.parallel, "parallel", guestsAtATime(), "guests at a time")
	own, rest := splitArgs(args)
	if err := fs.Parse(own); err != nil {
		return err
	}
	t.patterns = append(strings.Fields(*tests), fs.Args()...)
	if len(t.patterns) == 0 {
		t.patterns = []string{"./..."}
	}
	t.testArgs = append(t.testArgs, "-test.v=test2json", "-test.timeout="+t.pkgTimeout.String())
	if *pattern != "" {
		t.testArgs = append(t.testArgs, "-test.run="+*pattern)
	}
	if *short {
		t.testArgs = append(t.testArgs, "-test.short")
	}
	t.testArgs = append(t.testArgs, rest...)
	return nil
}

// splitArgs divides at "--".
func splitArgs(args []string) (own, rest []string) {
	for i, a := range args {
		if a == "--" {
			return args[:i], args[i+1:]
		}
	}
	return args, nil
}

// build compiles what runs in the guests and returns the files that all of them get. A package
// that does not compile is reported and left out; the others still run.
func (t *testRun) build(ctx context.Context) ([]vm.File, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	pkgs, err := listPackages(ctx, t.patterns)
	if err != nil {
		return nil, err
	}
	files := append(samePlace(filepath.Join(root, "go.mod"), filepath.Join(root, "testdata"), filepath.Join(root, "deploy")), t.add...)
	for i, err := range t.buildTests(ctx, pkgs) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			t.failures++
			fmt.Fprintf(t.stdout, "FAIL build  %s\n%v\n", pkgs[i].name(), err)
			continue
		}
		t.pkgs = append(t.pkgs, pkgs[i])
	}
	if len(t.pkgs) == 0 && t.failures == 0 {
		return nil, errors.New("no package has tests that need a kernel")
	}
	return t.addBinary(ctx, files), nil
}

// buildTests compiles packages side by side, for a link keeps one CPU busy, and returns an
// error or nil for each.
func (t *testRun) buildTests(ctx context.Context, pkgs []pkg) []error {
	errs := make([]error, len(pkgs))
	slots := make(chan struct{}, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range pkgs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			pkgs[i].bin = filepath.Join(t.dir, fmt.Sprintf("%d.test", i))
			errs[i] = buildTest(ctx, pkgs[i], pkgs[i].bin)
		})
	}
	wg.Wait()
	return errs
}

// addBinary adds ctsight where it compiles; tests that need it skip where it is missing.
func (t *testRun) addBinary(ctx context.Context, files []vm.File) []vm.File {
	bin := filepath.Join(t.dir, "ctsight")
	if err := buildBinary(ctx, bin); err != nil {
		fmt.Fprintln(t.stderr, "note: no ctsight binary in the guest: cmd/ctsight does not compile")
		return files
	}
	return append(files, vm.File{Host: bin, Guest: guestBinary})
}

// packageFiles returns a package's binary and test data, at the same paths as on the host so
// that positions in messages and relative paths agree.
func packageFiles(p pkg) []vm.File {
	return append(samePlace(filepath.Join(p.Dir, "testdata")), vm.File{Host: p.bin, Guest: guestTest(p)})
}

// samePlace puts those paths that exist at the same place in the guest.
func samePlace(paths ...string) []vm.File {
	var files []vm.File
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			files = append(files, vm.File{Host: p, Guest: p})
		}
	}
	return files
}

// guestTest is where a package's test binary lies in the guest.
func guestTest(p pkg) string { return filepath.Join(p.Dir, filepath.Base(p.Dir)+".test") }

// script returns what the guest runs: each binary between two marks that runReport reads.
func (t *testRun) script(tasks []task) string {
	var b strings.Builder
	b.WriteString("#!/bin/bash\n")
	for i, p := range tasks {
		var args []string
		for _, a := range p.args(t.testArgs) {
			args = append(args, vm.Quote(a))
		}
		fmt.Fprintf(&b, "printf '%s%d\\n'\n", beginMark, i)
		fmt.Fprintf(&b, "cd %s && %s %s 2>&1\n", vm.Quote(p.Dir), vm.Quote(guestTest(p.pkg)), strings.Join(args, " "))
		fmt.Fprintf(&b, "printf '%s%d %%d\\n' $?\n", endMark, i)
	}
	return b.String()
}

// runGuests runs all guests, then the tests that failed once more if that is allowed, in
// fresh guests that have the machine to themselves if they are few: an emulated machine that
// others slow down may miss any deadline, and one that patches its own code on two CPUs at
// once dies of it at times (an int3 that nobody claims). The first failure stays
// in the output, with the guest's last words; what fails again has failed.
func (t *testRun) runGuests(ctx context.Context, all []guest, files []vm.File) (tally, error) {
	total, failed, err := t.bootAll(ctx, all, files, t.parallel, t.again)
	if len(failed) > 0 && ctx.Err() == nil {
		atATime := 1
		if len(failed) > fewGuests {
			atATime = t.parallel
		}
		again, _, err2 := t.bootAll(ctx, failed, files, atATime, false)
		again.again = again.passed
		total.add(again)
		err = errors.Join(err, err2)
	}
	if ctx.Err() != nil {
		return total, ctx.Err()
	}
	return total, err
}

// fewGuests is how many may fail by accident.
const fewGuests = 6

// bootAll boots one guest after the other, so many at a time and one more of those that
// wait. It returns the sum over all, and where tests may fail what of them has failed,
// which is not in the sum.
func (t *testRun) bootAll(ctx context.Context, all []guest, files []vm.File, atATime int, mayFail bool) (total tally, failed []guest, errs error) {
	var (
		mu sync.Mutex // guards the results
		wg sync.WaitGroup
	)
	run := func(waits bool, atATime int) {
		slots := make(chan struct{}, max(1, atATime))
		for _, g := range all {
			if g.waits() != waits {
				continue
			}
			slots <- struct{}{}
			if ctx.Err() != nil {
				break
			}
			wg.Go(func() {
				defer func() { <-slots }()
				rep, err := t.boot(ctx, g, files)
				mu.Lock()
				defer mu.Unlock()
				if !mayFail || rep == nil || len(rep.failed) == 0 {
					total.add(rep.sum(len(g.tasks)))
					errs = errors.Join(errs, err)
					return
				}
				if err != nil {
					fmt.Fprintf(t.stdout, "note %-6s %v\n", g.kernel.Name, err)
				}
				for _, again := range rep.failed {
					fmt.Fprintf(t.stdout, "note %-6s runs again at the end, in a fresh guest: %s\n", g.kernel.Name, again)
				}
				total.add(rep.settled)
				failed = append(failed, guest{g.kernel, rep.failed})
			})
		}
	}
	wg.Go(func() { run(true, 1) })
	run(false, atATime)
	wg.Wait()
	return total, failed, errs
}

// lines passes whole writes on, one at a time: guests run side by side.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// boot boots one guest and prints a line per package as it comes. There is no report
// without a kernel.
func (t *testRun) boot(ctx context.Context, g guest, files []vm.File) (*runReport, error) {
	img, err := vm.Fetch(ctx, g.kernel, t.stderr)
	if err != nil {
		return nil, err
	}
	const script = "/lab/tests"
	files = append(slices.Clone(files), vm.File{Content: []byte(t.script(g.tasks)), Mode: 0o755, Guest: script})
	for _, p := range g.tasks {
		files = append(files, packageFiles(p.pkg)...)
	}
	rep := newRunReport(t.stdout, g.kernel.Name, g.tasks, t.verbose)
	o := t.options(t.stderr)
	o.Stdout = rep
	res, err := vm.Run(ctx, img, vm.Spec{Env: t.env, Command: []string{script}, Systemd: t.systemd, Files: files}, o)
	rep.finish(err)
	for _, s := range res.Splats() {
		fmt.Fprintf(t.stdout, "note %-6s kernel log: %s\n", g.kernel.Name, s)
	}
	return rep, err
}
