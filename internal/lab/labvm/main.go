// Command labvm is a developer's tool: it boots the kernels of internal/lab/vm and runs a
// command, or the module's tests, inside.
//
//	labvm [flags] -- command args...   run a command
//	labvm fetch [flags]                fill the cache of kernels
//	labvm test [flags] [packages]      run tests that need a kernel
//	labvm demo [flags]                 run `ctsight demo`, here or in a guest
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "labvm:", err)
	}
	os.Exit(code)
}

// Exit codes of labvm itself; a command's own code is passed on.
const (
	codeFailed = 1
	codeUsage  = 2
	codeVM     = 125 // the guest did not come up or did not report, as `docker run` has it
)

// run picks the subcommand and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "fetch":
			return runFetch(ctx, args[1:], stderr)
		case "test":
			return runTest(ctx, args[1:], stdout, stderr)
		case "demo":
			return runDemo(ctx, args[1:], stdout, stderr)
		}
	}
	return runExec(ctx, args, stdout, stderr)
}

// guestFlags are the flags of every subcommand that boots a guest.
type guestFlags struct {
	kernels kernelFlag
	add     addFlag
	env     envFlag
	opts    vm.Options
	verbose bool
	systemd bool
	append  string
}

// register declares the flags.
func (g *guestFlags) register(fs *flag.FlagSet, timeout time.Duration) {
	fs.Var(&g.kernels, "kernel", "comma-separated kernels to boot, or all")
	fs.Var(&g.add, "add", "copy host:guest into the guest, file or directory (repeatable)")
	fs.Var(&g.env, "env", "set NAME=value in the guest (repeatable)")
	fs.BoolVar(&g.opts.ICount, "icount", false, "deterministic instruction counts: one CPU, slow")
	fs.IntVar(&g.opts.CPUs, "smp", 2, "CPUs of the guest")
	fs.IntVar(&g.opts.MemoryMB, "mem", 2048, "memory of the guest in MB")
	fs.DurationVar(&g.opts.Timeout, "timeout", timeout, "limit for one guest, boot included")
	fs.BoolVar(&g.verbose, "v", false, "show more: kernel messages, times, output of tests that pass")
	fs.BoolVar(&g.systemd, "systemd", false, "a Debian with systemd as guest, in place of a few tools")
	fs.StringVar(&g.append, "append", "", "more kernel arguments")
}

// options returns the options to boot with.
func (g *guestFlags) options(console io.Writer) vm.Options {
	o := g.opts
	o.Append = strings.Fields(g.append)
	if g.verbose {
		o.Console = console
	}
	return o
}

// kernelFlag is a list of kernels given by name.
type kernelFlag []vm.Kernel

func (k *kernelFlag) String() string {
	var names []string
	for _, kernel := range *k {
		names = append(names, kernel.Name)
	}
	return strings.Join(names, ",")
}

func (k *kernelFlag) Set(s string) error {
	ks, err := vm.SelectKernels(s)
	*k = ks
	return err
}

// addFlag collects host:guest pairs.
type addFlag []vm.File

func (a *addFlag) String() string { return fmt.Sprintf("%d files", len(*a)) }

func (a *addFlag) Set(s string) error {
	host, guest, ok := strings.Cut(s, ":")
	if !ok || !strings.HasPrefix(guest, "/") {
		return fmt.Errorf("want host:/guest")
	}
	*a = append(*a, vm.File{Host: host, Guest: guest})
	return nil
}

// envFlag collects NAME=value pairs.
type envFlag []string

func (e *envFlag) String() string { return strings.Join(*e, " ") }

func (e *envFlag) Set(s string) error {
	if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
		return fmt.Errorf("want NAME=value")
	}
	*e = append(*e, s)
	return nil
}

// newFlagSet returns a flag set that reports errors instead of ending the process.
func newFlagSet(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	return fs
}
