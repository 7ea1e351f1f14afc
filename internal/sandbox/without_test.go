package sandbox

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/probe"
)

// withoutReport is what still works without one of the needs.
type withoutReport struct {
	Backend string // that a new probe gets, or why none
	Working map[string]string
}

// childWithout drops all needs but the one called arg, and tries what they are for.
func childWithout(arg string) (any, error) {
	pid, end, err := sleeper(&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}})
	if err != nil {
		return nil, err
	}
	defer end()
	held, err := unix.Open(nsPath(pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var needs []Need
	for _, n := range Needs() {
		if n.Name != arg {
			needs = append(needs, n)
		}
	}
	if _, err := Drop(needs); err != nil {
		return nil, err
	}
	c := newCrew(1)
	r := withoutReport{Backend: backend(), Working: map[string]string{}}
	for name, f := range map[string]func() error{
		"conntrack over netlink": statistics,
		"enter a namespace":      func() error { return unix.Setns(held, unix.CLONE_NEWNET) },
		"find a namespace":       func() error { return found(nsPath(pid)) },
		"addresses of symbols":   symbols,
		"run first":              func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, -20) },
		"make a map":             createMap,
	} {
		r.Working[name] = c.each(func() error { return errors.New(answer(f())) })[0]
	}
	return r, nil
}

// backend attaches without what the backend can do without: that takes seconds
// in an emulated machine.
func backend() string {
	core := []string{"__nf_conntrack_confirm", "__nf_conntrack_alloc", "nf_ct_helper_destroy", "kfree_skb"}
	p, err := probe.Open(probe.Options{Only: func(symbol string) bool { return slices.Contains(core, symbol) }})
	if err != nil {
		return strings.Join(strings.Fields(err.Error()), " ")
	}
	defer p.Close()
	return p.Report().Backend
}

func statistics() error {
	c, err := ctnl.Dial(ctnl.NS{})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Stats()
	return err
}

// symbols looks whether /proc/kallsyms tells addresses.
func symbols() error {
	data, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, " _stext\n") && !strings.HasPrefix(line, "0000000000000000 ") {
			return nil
		}
	}
	return errors.New("hidden")
}

// R17: with what Drop keeps everything works as before; without one of the needs,
// what that one is for does not.
func TestWithoutOne(t *testing.T) {
	lab.NeedVM(t)
	all := map[string]string{"conntrack over netlink": "ok", "enter a namespace": "ok", "find a namespace": "ok",
		"addresses of symbols": "ok", "run first": "ok", "make a map": "ok"}
	for _, m := range []string{"nf_conntrack", "nf_conntrack_netlink"} {
		_ = exec.Command("modprobe", m).Run() // built in, or the backend will tell
	}
	want := backend()
	if strings.Contains(want, " ") {
		t.Fatal(want)
	}
	lost := map[string]map[string]string{
		"":               {},
		"cap_sys_admin":  {"enter a namespace": "EPERM"},
		"cap_syslog":     {"addresses of symbols": "hidden"},
		"cap_sys_ptrace": {"find a namespace": "not found"},
		"cap_sys_nice":   {"run first": "EACCES"},
		"cap_net_admin":  {"conntrack over netlink": "EPERM"},
		"cap_bpf":        {}, // covered by cap_sys_admin
		"cap_perfmon":    {},
	}
	for _, n := range append([]Need{{}}, Needs()...) {
		t.Run("without "+n.Name, func(t *testing.T) {
			var r withoutReport
			run(t, "without "+n.Name, nil, &r)
			t.Log(r.Backend, r.Working)
			expect := maps.Clone(all)
			maps.Copy(expect, lost[n.Name])
			if d := cmp.Diff(expect, r.Working); d != "" {
				t.Error(d)
			}
			// Debian lets nobody else have kprobes, so there is no other backend.
			if (r.Backend == want) != (n.Name != "cap_sys_admin") {
				t.Errorf("backend %s, was %s", r.Backend, want)
			}
		})
	}
}
