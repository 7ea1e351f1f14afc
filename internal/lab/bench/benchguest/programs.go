package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
)

// A program is a tap that runs in a process of its own, as people use it.
type program struct {
	args  []string
	large []string // further arguments for a buffer that nothing overflows
	count func(printed string) measure.Tally
}

// source is the packet's sender, for a one-liner that is told of a packet.
const source = `$ip = (struct iphdr *)(((struct sk_buff *)arg0)->head + ((struct sk_buff *)arg0)->network_header); `

func programs() map[string]program {
	self := func(name string) []string { return []string{"/proc/self/exe", "-be", name} }
	return map[string]program{
		"ctsight":     {args: self("ctsight"), count: sumsOfOurs},
		"ctnetlink":   {args: self("ctnetlink"), count: sumsOfOurs},
		"ti-mo":       {args: self("ti-mo"), large: []string{"-buffer", "16777216"}, count: sumsOfOurs},
		"conntrack-E": {args: []string{"conntrack", "-E", "-e", "NEW,DESTROY"}, large: []string{"-b", "16777216"}, count: lines("[NEW]", "[DESTROY]")},
		// What somebody types who wants to know who makes connections: it counts
		// in the kernel, packets that are about to make an entry.
		"bpftrace-count": {args: []string{"bpftrace", "-e", `kprobe:__nf_conntrack_confirm { ` + source + `@new[ntop($ip->saddr)] = count(); } ` +
			`kprobe:nf_ct_destroy { @destroyed = count(); }`}, count: sumsOfMaps},
		// And who wants to see each of them.
		"bpftrace-print": {args: []string{"bpftrace", "-e", `kprobe:__nf_conntrack_confirm { ` + source +
			`printf("new %s > %s\n", ntop($ip->saddr), ntop($ip->daddr)); } kprobe:nf_ct_destroy { $ct = (struct nf_conn *)arg0; ` +
			`printf("destroyed %s > %s\n", ntop($ct->tuplehash[0].tuple.src.u3.ip), ntop($ct->tuplehash[0].tuple.dst.u3.ip)); }`},
			count: lines("new ", "destroyed ")},
	}
}

func lines(of, gone string) func(string) measure.Tally {
	return func(printed string) (t measure.Tally) {
		for l := range strings.Lines(printed) {
			switch {
			case strings.Contains(l, gone):
				t.Destroyed++
			case strings.Contains(l, of):
				t.New++
			}
		}
		return t
	}
}

// sumsOfOurs reads what report has printed.
func sumsOfOurs(printed string) (t measure.Tally) {
	_, sums, _ := strings.Cut(printed, "told ")
	_, _ = fmt.Sscan(sums, &t.New, &t.Destroyed)
	return t
}

// mapLine is "@new[10.50.1.1]: 64" or "@destroyed: 4096".
var mapLine = regexp.MustCompile(`(?m)^@(new|destroyed)(?:\[.*\])?: (\d+)$`)

func sumsOfMaps(printed string) (t measure.Tally) {
	for _, m := range mapLine.FindAllStringSubmatch(printed, -1) {
		n, _ := strconv.Atoi(m[2])
		if m[1] == "new" {
			t.New += n
		} else {
			t.Destroyed += n
		}
	}
	return t
}

// process is a program that runs. While costs are measured it cannot run when we
// send, and gets as much time as it wants between the batches.
type process struct {
	program
	cmd   *exec.Cmd
	out   *os.File
	start uint64
}

// startProgram starts one in the namespace of a road and waits until it listens.
func startProgram(r *road, name string, large bool) (*process, error) {
	p := &process{program: programs()[name]}
	args := p.args
	if large {
		args = append(args[:len(args):len(args)], p.large...)
	}
	var err error
	if p.out, err = os.Create(filepath.Join(os.TempDir(), name)); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Env = append(os.Environ(), "GODEBUG=") // what keeps us quiet would make them late
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := r.ns.Do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	nap(3000)
	if err := p.drain(); err != nil {
		return nil, err
	}
	p.start = p.used()
	return p, nil
}

func (p *process) used() uint64 {
	return cpuTime(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
}

// idle is what a process may use while there is nothing to read, of a look: 1 %.
const (
	look = 200 // ms
	idle = look * 10_000
)

// drain waits until the process has nothing more to do.
func (p *process) drain() error {
	last := p.used()
	for range 60_000 / look {
		nap(look)
		now := p.used()
		if now-last < idle {
			return nil
		}
		last = now
	}
	return fmt.Errorf("%s is not done after a minute", p.args)
}

func (p *process) read() (events, lost int, perEvent float64) {
	return roundEvents, 0, float64(p.used()-p.start) / roundEvents
}

// roundEvents is what one round gives to see.
const roundEvents = 2 * measure.Batches * measure.Packets

// stop ends the process and returns what it has printed.
func (p *process) stop() (string, error) {
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	_ = p.cmd.Wait()
	p.out.Close()
	printed, err := os.ReadFile(p.out.Name())
	return string(printed), err
}

// close checks that nothing was lost: work not done would count as cheap.
func (p *process) close() error {
	printed, err := p.stop()
	if err != nil {
		return err
	}
	if t := p.count(printed); t.New+t.Destroyed != roundEvents {
		return fmt.Errorf("not all of %d events seen but %v: %.300s", roundEvents, t, printed)
	}
	return nil
}
