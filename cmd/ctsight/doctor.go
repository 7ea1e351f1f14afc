package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/view"
)

func newDoctor(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "what this kernel lets us see: backend, hooks, namespaces, memory, privileges",
		Long: `Doctor loads and attaches every program, says what the kernel answered, and
takes everything off again. It changes no setting. Exit code 0 when at least
new connections can be traced, 3 when not.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := g.check(); err != nil {
				return err
			}
			d, err := g.diagnose(cmd)
			if werr := g.writeDoctor(d); werr != nil {
				return werr
			}
			return err
		},
	}
}

func (g *globals) writeDoctor(d *view.Doctor) error {
	if g.json() {
		return view.WriteDoctorJSON(g.stdout, d)
	}
	return view.WriteDoctorText(g.stdout, d, g.color())
}

// diagnose fills in the report; the error is why nothing can be traced.
func (g *globals) diagnose(cmd *cobra.Command) (*view.Doctor, error) {
	d := &view.Doctor{Kernel: unameRM(), Lockdown: probe.Lockdown(), BTF: btfFiles(), Privileges: privileges(), Backend: "none"}
	if slices.ContainsFunc(d.Privileges, func(p view.Privilege) bool { return !p.Have }) {
		d.Remedy = "run as root (sudo ctsight doctor), or give the binary the capabilities above with setcap"
	}
	d.NetNS, d.Warnings = namespaces()
	d.Sysctls = sysctls()
	p, err := pipeline.Open(cmd.Context(), pipeline.Config{Backend: g.backend, Audit: true})
	if err != nil {
		d.Warnings = append([]string{oneLine(err)}, d.Warnings...)
		if errors.Is(err, probe.ErrNotLoaded) || errors.Is(err, probe.ErrNotPossible) || errors.Is(err, ctnl.ErrPermission) {
			return d, err
		}
		return d, fmt.Errorf("%w: %w", probe.ErrNotPossible, err)
	}
	defer p.Close()
	r := p.Report()
	d.Backend, d.CanTrace = r.Backend, true
	d.Memory = view.Memory{Rings: r.RingBytes, Maps: r.MapBytes, User: pipeline.LiveBytes}
	d.Bounds = []view.Setting{
		{Name: "network namespaces with their own counters, per CPU", Value: fmt.Sprint(r.NetNSPlaces), Note: "those at rest make way for others; what finds no place is counted together"},
		{Name: "live entries with a known age", Value: fmt.Sprint(pipeline.LiveLimit), Note: "the rest has no lifetime_ns"},
		{Name: "rows of each dimension of top", Value: fmt.Sprint(agg.DefaultRows),
			Note: fmt.Sprintf("the rest is summed up in other; top takes up to %d MiB, when all its tables are full", agg.CensusBytes(int(agg.NumDims))>>20)},
		{Name: "sources that detection knows", Value: fmt.Sprint(detect.DefaultSubjects),
			Note: "who comes once makes room for others; ctsight_detection_omitted_total counts what had none"},
	}
	if p.Refused != nil {
		d.Warnings = append([]string{fmt.Sprintf("backend %s, because no better one works here: %s", r.Backend, oneLine(p.Refused))}, d.Warnings...)
	}
	if r.SymbolsErr != nil {
		d.Warnings = append(d.Warnings, r.SymbolsErr.Error()+"; some causes are reported as unknown")
	}
	for _, h := range r.Hooks {
		if !h.Audit {
			d.Hooks = append(d.Hooks, hookStatus(h))
		}
	}
	selfCheck(cmd.Context(), p, d)
	return d, nil
}

// selfCheck sends real flows through namespaces of our own and marks hooks
// that did not see all of them.
func selfCheck(ctx context.Context, p *pipeline.Pipeline, d *view.Doctor) {
	rows, err := p.SelfCheck(ctx)
	if err != nil {
		d.Warnings = append(d.Warnings, oneLine(err))
		return
	}
	for _, r := range rows {
		d.Checks = append(d.Checks, view.Check{What: r.What, Want: r.Want, Got: r.Got})
		if r.OK() {
			continue
		}
		for i := range d.Hooks {
			if d.Hooks[i].Symbol == r.Hook && d.Hooks[i].State == view.HookOK {
				d.Hooks[i].State = view.HookFailed
				d.Hooks[i].Answer = fmt.Sprintf("saw %d of %d %s: this build calls an inlined copy", r.Got, r.Want, r.What)
			}
		}
	}
}

func hookStatus(h probe.HookStatus) view.HookStatus {
	s := view.HookStatus{Symbol: h.Symbol, At: h.At, Programs: h.Programs, Backend: h.Backend, Lost: h.Lost}
	switch {
	case h.Backend != "":
		s.State = view.HookOK
	case errors.Is(h.Err, os.ErrNotExist):
		s.State = view.HookMissing
		s.Answer = "no such function now; attached when its module is loaded"
	default:
		s.State = view.HookFailed
		s.Answer = oneLine(h.Err)
	}
	return s
}

func unameRM() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

// btfFiles says whose types the kernel offers.
func btfFiles() view.BTF {
	var b view.BTF
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	b.VMLinux = err == nil
	for _, m := range []string{"nf_conntrack", "nf_nat", "nf_conntrack_netlink", "nf_tables"} {
		if _, err := os.Stat(filepath.Join("/sys/module", m, "sections")); err != nil {
			continue // built in, or not loaded
		}
		if _, err := os.Stat(filepath.Join("/sys/kernel/btf", m)); err == nil {
			b.Modules = append(b.Modules, m)
		} else {
			b.Missing = append(b.Missing, m)
		}
	}
	return b
}

// privileges are the effective capabilities that matter.
func privileges() []view.Privilege {
	want := []struct {
		bit       uint
		name, use string
	}{
		{unix.CAP_BPF, "CAP_BPF", "load programs and maps"},
		{unix.CAP_PERFMON, "CAP_PERFMON", "read kernel memory, attach to functions"},
		{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "types of modules (BTF by id), other network namespaces"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "conntrack statistics and listing"},
		{unix.CAP_SYSLOG, "CAP_SYSLOG", "kernel addresses, to tell unusual causes"},
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&hdr, &data[0])
	var out []view.Privilege
	for _, w := range want {
		have := err == nil && data[w.bit/32].Effective>>(w.bit%32)&1 == 1
		out = append(out, view.Privilege{Name: w.name, Have: have, For: w.use})
	}
	return out
}

// namespaces lists every network namespace and its table.
func namespaces() ([]view.NetNSTable, []string) {
	all, err := ctnl.ListAllNetNS()
	if err != nil {
		return nil, []string{oneLine(err)}
	}
	var out []view.NetNSTable
	var warn []string
	for _, ns := range all {
		t := view.NetNSTable{NetNS: ns.Inode, Name: ns.Name}
		if f, err := fill(ns); err == nil {
			t.Count, t.Max = uint64(f.Count), uint64(f.Max)
		} else if len(warn) == 0 {
			warn = append(warn, fmt.Sprintf("network namespace %d: %s", ns.Inode, oneLine(err)))
		}
		out = append(out, t)
	}
	return out, warn
}

func fill(ns ctnl.NS) (ctnl.Fill, error) {
	c, err := ctnl.Dial(ns)
	if err != nil {
		return ctnl.Fill{}, err
	}
	defer c.Close()
	return c.Fill()
}

// sysctls that explain what is seen; read, never written.
func sysctls() []view.Setting {
	var out []view.Setting
	for _, s := range []struct{ path, note string }{
		{"net/netfilter/nf_conntrack_max", "shared by all network namespaces"},
		{"net/netfilter/nf_conntrack_buckets", ""},
		{"net/netfilter/nf_conntrack_events", "0: the netlink backend sees no destroys"},
		{"kernel/kptr_restrict", "2 hides kernel addresses"},
		{"kernel/perf_event_paranoid", "above 2 some distributions refuse kprobes"},
		{"kernel/unprivileged_bpf_disabled", ""},
	} {
		b, err := os.ReadFile(filepath.Join("/proc/sys", s.path))
		if err != nil {
			continue
		}
		out = append(out, view.Setting{Name: strings.ReplaceAll(s.path, "/", "."), Value: strings.TrimSpace(string(b)), Note: s.note})
	}
	return out
}
