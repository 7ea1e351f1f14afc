// Command benchguest is the half of the benchmark that runs in the guest. It
// sends packets of which each makes a new entry, removes the entries again,
// and counts the instructions of both, with one tap after the other on the
// traffic path. It judges nothing: numbers go to the host as JSON, where
// internal/lab/bench makes a table of them.
//
// It means something only under `-icount shift=0,sleep=off` with one CPU: then
// one tick of the time stamp counter is one instruction, and all that a packet
// causes in softirqs happens inside the system call that sends it.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "benchguest:", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("out", "/out/bench.json", "file for the numbers")
	only := flag.String("taps", "", "comma-separated taps to measure; empty is ours and its peers, all is all")
	roads := flag.String("traffic", "", "comma-separated kinds of traffic; empty is all")
	repeat := flag.Int("repeat", 1, "rounds per tap")
	complete := flag.Bool("complete", false, "measure completeness too")
	listener := flag.String("be", "", "be one of the listeners, nothing else")
	buffer := flag.Int("buffer", 0, "bytes of the listener's socket; 0 is the default")
	flag.Parse()
	if *listener != "" {
		return be(*listener, *buffer)
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if err := prepare(); err != nil {
		return err
	}
	b := &bench{taps: choose(allTaps(), *only), repeat: *repeat}
	if err := b.build(); err != nil {
		return err
	}
	res, err := b.run(split(*roads))
	if err == nil && *complete {
		res.Deliveries, err = deliveries(b.lab, *only)
	}
	if err != nil {
		return errors.Join(err, b.lab.Close())
	}
	data, err := json.MarshalIndent(res, "", "\t")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(*out, data, 0o644), b.lab.Close())
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// modules are loaded before anything is measured, so that every hook of the
// default set finds its function.
var modules = []string{"nf_tables", "nf_nat", "nf_conntrack_netlink", "nft_ct", "nft_chain_nat", "nft_masq",
	"nf_conncount", "nf_synproxy_core", "dummy", "veth"}

// prepare makes this machine quiet: a table of fixed size, and no thread but
// ours while we do not sleep.
func prepare() error {
	if out, err := exec.Command("modprobe", "nf_conntrack", fmt.Sprint("hashsize=", measure.Buckets)).CombinedOutput(); err != nil {
		return fmt.Errorf("load nf_conntrack: %w: %s", err, out)
	}
	if out, err := exec.Command("modprobe", append([]string{"-a"}, modules...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("load modules: %w: %s", err, out)
	}
	for name, value := range map[string]string{
		"/proc/sys/kernel/sched_rt_runtime_us": "-1",
		"/proc/sys/net/core/bpf_jit_kallsyms":  "1",
		// conntrack(8) does not get what it asks for with --buffer-size
		"/proc/sys/net/core/rmem_max":     "67108864",
		"/proc/sys/net/core/rmem_default": "67108864",
	} {
		if err := os.WriteFile(name, []byte(value), 0); err != nil {
			return err
		}
	}
	// Once ksoftirqd wants to run, all softirqs are left to it: it must be
	// able to, or packets would wait for the end of the batch.
	for _, pid := range pids("ksoftirqd/0") {
		if err := realTime(pid, 2); err != nil {
			return err
		}
	}
	return realTime(0, 1)
}

// wanted is one of the taps asked for.
func wanted(name, only string) bool {
	switch only {
	case "all":
		return true
	case "":
		_, peer := programs()[name] // ours is one of them
		return peer
	}
	return slices.Contains(split(only), name)
}

// realTime makes a thread go before all of lower priority; children do not inherit it.
func realTime(pid, priority int) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: uint32(priority)}
	if pid == 0 {
		attr.Flags = unix.SCHED_FLAG_RESET_ON_FORK
	}
	if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
		return fmt.Errorf("make thread %d a real-time thread: %w", pid, err)
	}
	return nil
}

// nap sleeps in the kernel, without giving this goroutine's place away, and
// lets all other threads run. When nobody has work to do time jumps ahead.
func nap(ms int) {
	ts := unix.NsecToTimespec(int64(ms) * 1e6)
	for { // Go's signals cut it short
		if _, _, errno := unix.RawSyscall(unix.SYS_NANOSLEEP, ptr(&ts), ptr(&ts), 0); errno != unix.EINTR {
			return
		}
	}
}
