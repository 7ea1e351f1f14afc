package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"time"
)

// Options say how a guest is booted. The zero value is usable.
type Options struct {
	CPUs     int           // 2 when zero; always 1 with ICount
	MemoryMB int           // 2048 when zero
	Timeout  time.Duration // for boot and command together; 5 minutes when zero
	ICount   bool          // deterministic instruction counts: slow, one CPU
	Append   []string      // more kernel arguments
	Stdout   io.Writer     // gets the command's output as it comes; may be nil
	Console  io.Writer     // gets kernel messages as they come; may be nil
	Out      string        // directory that gets the guest's /out; empty to drop it
}

// Result is what a guest that ran to its end reports.
type Result struct {
	Code    int           // the command's exit code
	Boot    time.Duration // from the start of QEMU to the start of the command
	Elapsed time.Duration // the command itself
	Dmesg   string        // the kernel's log after the command
}

// splat matches kernel messages that deserve a look even when all tests pass.
var splat = regexp.MustCompile(`(?m)^.*(WARNING: CPU|WARNING: .*:[0-9]+ at |BUG: |possible recursive locking|RCU stall|rcu.*detected stall|general protection).*$`)

// Splats returns the warnings and bugs the kernel logged.
func (r Result) Splats() []string { return splat.FindAllString(r.Dmesg, -1) }

// setDefaults fills in the zero values.
func (o *Options) setDefaults() {
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.MemoryMB == 0 {
		o.MemoryMB = 2048
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
}

// Run boots img, runs the command of spec in it and waits for the end. A command that fails is
// not an error but a Code. When ctx ends, QEMU is killed; nothing is left behind.
func Run(ctx context.Context, img Image, spec Spec, o Options) (Result, error) {
	o.setDefaults()
	path, err := BuildInitramfs(ctx, img, spec)
	if err != nil {
		return Result{}, err
	}
	initramfs, err := openUnlinked(path)
	if err != nil {
		return Result{}, err
	}
	defer initramfs.Close()
	res, err := boot(ctx, img, initramfs, o)
	if err != nil {
		return Result{}, fmt.Errorf("run kernel %s (%s): %w", img.Kernel.Name, img.Release, err)
	}
	return res, nil
}

// openUnlinked opens a file and removes its name: it is gone when the last process closes it.
func openUnlinked(path string) (*os.File, error) {
	f, err := os.Open(path)
	if e := os.Remove(path); err == nil && e != nil {
		f.Close()
		err = e
	}
	if err != nil {
		return nil, fmt.Errorf("open initramfs: %w", err)
	}
	return f, nil
}

// guest is a running QEMU and our ends of its two serial ports.
type guest struct {
	cmd              *exec.Cmd
	console, results *os.File
	stderr           *tail
	start            time.Time
}

// boot starts QEMU, reads its report and judges how it ended.
func boot(ctx context.Context, img Image, initramfs *os.File, o Options) (Result, error) {
	limited, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	g, err := start(limited, img, initramfs, o)
	if err != nil {
		return Result{}, err
	}
	con := newTail(consoleLines)
	conDone := make(chan struct{})
	go func() {
		defer close(conDone)
		io.Copy(io.MultiWriter(con, o.Console), g.console) // ends when QEMU does
	}()
	rep, res, readErr := g.read(o.Stdout)
	g.stop(readErr == nil, cancel)
	<-conDone
	g.close()
	if readErr != nil {
		return Result{}, diagnose(ctx, limited, o, con, g.stderr, readErr)
	}
	res.Code = rep.code
	res.Dmesg, err = unpackOut(rep.out, o.Out)
	return res, err
}

// read receives the report and takes the times.
func (g *guest) read(stdout io.Writer) (report, Result, error) {
	var res Result
	rep, err := readReport(g.results, stdout, func() { res.Boot = time.Since(g.start) })
	res.Elapsed = time.Since(g.start) - res.Boot
	return rep, res, err
}

// start runs QEMU with two pipes as serial ports. QEMU dies with us, and a Ctrl-C at the
// terminal reaches us only.
func start(ctx context.Context, img Image, initramfs *os.File, o Options) (*guest, error) {
	args, err := qemuArgs(img, o)
	if err != nil {
		return nil, err
	}
	g := &guest{cmd: exec.CommandContext(ctx, qemu, args...), stderr: newTail(consoleLines), start: time.Now()}
	ours, theirs, err := serialPorts()
	if err != nil {
		return nil, err
	}
	defer closeAll(theirs[:])
	g.console, g.results = ours[0], ours[1]
	g.cmd.ExtraFiles = []*os.File{theirs[0], theirs[1], initramfs} // fdConsole, fdResults, fdInitramfs
	g.cmd.Stderr = g.stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		g.close()
		return nil, fmt.Errorf("start %s, install qemu-system-x86: %w", qemu, err)
	}
	return g, nil
}

// serialPorts returns both ends of two pipes: ours to read, QEMU's to write.
func serialPorts() (ours, theirs [2]*os.File, err error) {
	for i := range ours {
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			closeAll(append(ours[:i], theirs[:i]...))
			return ours, theirs, fmt.Errorf("make serial port: %w", err)
		}
	}
	return ours, theirs, nil
}

// stop waits for QEMU, whose exit status says nothing that the report or its absence does not.
// A guest that has reported gets a moment to power off; any other is gone or of no more use.
func (g *guest) stop(reported bool, kill context.CancelFunc) {
	if reported {
		defer time.AfterFunc(3*time.Second, kill).Stop()
	} else {
		kill()
	}
	_ = g.cmd.Wait()
}

func (g *guest) close() { closeAll([]*os.File{g.console, g.results}) }

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// diagnose says why a guest ended without a report, with the end of its console.
func diagnose(ctx, limited context.Context, o Options, con, stderr *tail, cause error) error {
	line := con.panicLine()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case line != "":
		cause = fmt.Errorf("%w: %s", ErrPanic, line)
	case errors.Is(limited.Err(), context.DeadlineExceeded):
		cause = fmt.Errorf("%w after %s", ErrTimeout, o.Timeout)
	default:
		cause = fmt.Errorf("%w: %w", ErrNoResult, cause)
	}
	if s := stderr.String(); s != "" {
		cause = fmt.Errorf("%w\n--- %s says:\n%s", cause, qemu, s)
	}
	return fmt.Errorf("%w\n--- last lines of the console:\n%s", cause, con)
}
