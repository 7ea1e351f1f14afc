package view

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/ctsight/ctsight/internal/event"
)

// Doctor is what this kernel lets us see. `cmd` fills it in from what the
// probe tried; nothing here tries anything.
type Doctor struct {
	Backend string // the one that would be used
	// CanTrace is set when at least new connections can be traced.
	CanTrace bool
	Kernel   string // release and machine, as in uname -rm
	Lockdown string // none, integrity, confidentiality, "" unknown
	BTF      BTF
	// Privileges that are wanted, and the one line that gives those missing.
	Privileges []Privilege
	Remedy     string
	Hooks      []HookStatus
	NetNS      []NetNSTable
	Memory     Memory
	Bounds     []Setting
	Sysctls    []Setting
	// Checks are what the self-check expected and what the hooks counted.
	Checks []Check
	// Warnings are sentences, most important first.
	Warnings []string
}

// BTF says where types were found.
type BTF struct {
	VMLinux bool
	Modules []string // those that matter to us and have their own
	Missing []string // those that are loaded and have none
}

// Privilege is a capability or a permission.
type Privilege struct {
	Name string
	Have bool
	For  string // what it is needed for
}

// HookState says whether a hook works here.
type HookState uint8

// States of a hook.
const (
	HookOK      HookState = iota
	HookMissing           // the kernel has no such symbol
	HookFailed            // the kernel refused, see Answer
	HookOff               // not wanted in this run
)

// String returns the word of the report.
func (s HookState) String() string {
	if s > HookOff {
		return "unknown"
	}
	return [...]string{"ok", "missing", "failed", "off"}[s]
}

// HookStatus is one hook and what came of it.
type HookStatus struct {
	Symbol   string
	At       string // the function that is hooked in its place, "" for none
	Programs []string
	Backend  string // how it is attached, "" if it is not
	State    HookState
	Answer   string // of the kernel, when it refused
	Lost     string // what is lost without it
	Missed   uint64 // runs the kernel skipped, where it says
}

// NetNSTable is a network namespace and its table.
type NetNSTable struct {
	NetNS      event.NetNS
	Name       string
	Count, Max uint64
}

// Memory in bytes that will be used.
type Memory struct{ Rings, Maps, User uint64 }

// Check is one line of the self-check.
type Check struct {
	What      string
	Want, Got uint64
}

// Setting is a name and a value, of a sysctl or a bound of ours.
type Setting struct{ Name, Value, Note string }

// WriteDoctorText writes the report for people.
func WriteDoctorText(w io.Writer, d *Doctor, color bool) error {
	r := doctorText{d, color}
	b := r.head(nil)
	b = r.privileges(b)
	b = r.hooks(b)
	b = r.namespaces(b)
	b = r.settings(b)
	b = r.checks(b)
	for _, s := range d.Warnings {
		b = append(appendColour(append(b, '\n'), color, yellow, "warning: "), safeText(s)...)
	}
	if len(d.Warnings) > 0 {
		b = append(b, '\n')
	}
	_, err := w.Write(b)
	return err
}

type doctorText struct {
	d     *Doctor
	color bool
}

func (r *doctorText) head(b []byte) []byte {
	verdict, colour := "new connections can be traced", green
	if !r.d.CanTrace {
		verdict, colour = "new connections cannot be traced", red
	}
	b = append(append(append(b, "backend   "...), safeName(r.d.Backend)...), ": "...)
	b = append(appendColour(b, r.color, colour, verdict), '\n')
	b = fmt.Appendf(b, "kernel    %s, lockdown %s\n", safeText(r.d.Kernel), orUnknown(r.d.Lockdown))
	b = fmt.Appendf(b, "BTF       vmlinux %s", yesNo(r.d.BTF.VMLinux))
	if len(r.d.BTF.Modules) > 0 {
		b = fmt.Appendf(b, ", modules %s", safeText(strings.Join(r.d.BTF.Modules, " ")))
	}
	if len(r.d.BTF.Missing) > 0 {
		b = fmt.Appendf(b, ", without: %s", safeText(strings.Join(r.d.BTF.Missing, " ")))
	}
	m := r.d.Memory
	return fmt.Appendf(b, "\nmemory    %s rings + %s maps + %s for tables at their bounds\n", BytesText(m.Rings), BytesText(m.Maps), BytesText(m.User))
}

func (r *doctorText) privileges(b []byte) []byte {
	var missing []string
	for _, p := range r.d.Privileges {
		if !p.Have {
			missing = append(missing, fmt.Sprintf("%s (%s)", safeText(p.Name), safeText(p.For)))
		}
	}
	b = append(b, "rights    "...)
	switch {
	case len(r.d.Privileges) == 0:
		return append(b, "unknown\n"...)
	case len(missing) == 0:
		return append(b, "all there\n"...)
	}
	b = append(appendColour(b, r.color, red, "missing: "), strings.Join(missing, ", ")...)
	if r.d.Remedy != "" {
		b = append(append(b, "\n          "...), safeText(r.d.Remedy)...)
	}
	return append(b, '\n')
}

func (r *doctorText) hooks(b []byte) []byte {
	if len(r.d.Hooks) == 0 {
		return b
	}
	t := &table{indent: "  ", color: r.color, columns: []tableColumn{{title: "hook"}, {title: "status", sgr: stateColour},
		{title: "backend"}, {title: "lost without it"}}}
	for _, h := range r.d.Hooks {
		lost := safeText(h.Lost)
		if h.State != HookOK && h.Answer != "" {
			lost += " (" + safeText(h.Answer) + ")"
		}
		if h.Missed > 0 {
			lost = strings.TrimSpace(fmt.Sprintf("%s skipped %d times", lost, h.Missed))
		}
		backend := "-"
		if h.Backend != "" {
			backend = safeText(h.Backend)
		}
		t.add(safeText(cmp.Or(h.At, h.Symbol)), h.State.String(), backend, lost)
	}
	return t.append(heading(b, r.color, "hooks"))
}

func stateColour(cell string) string {
	switch cell {
	case "ok":
		return green
	case "off":
		return ""
	}
	return red
}

func (r *doctorText) namespaces(b []byte) []byte {
	if len(r.d.NetNS) == 0 {
		return b
	}
	t := &table{indent: "  ", color: r.color, columns: []tableColumn{{title: "netns"}, {title: "entries", right: true},
		{title: "max", right: true}, {title: "fill", right: true}}}
	for _, n := range r.d.NetNS {
		maxText := num(n.Max)
		if n.Max == 0 {
			maxText = "no limit"
		}
		t.add(netnsText(n.NetNS, n.Name), num(n.Count), maxText, share(n.Count, n.Max))
	}
	return t.append(heading(b, r.color, "network namespaces"))
}

func (r *doctorText) checks(b []byte) []byte {
	if len(r.d.Checks) == 0 {
		return b
	}
	t := &table{indent: "  ", color: r.color, columns: []tableColumn{{title: "counted"}, {title: "expected", right: true}, {title: "seen", right: true}, {title: "result"}}}
	for _, c := range r.d.Checks {
		result := "ok"
		if c.Want != c.Got {
			result = "differs"
		}
		t.add(safeText(c.What), num(c.Want), num(c.Got), result)
	}
	return t.append(heading(b, r.color, "self-check: flows through namespaces of our own"))
}

func (r *doctorText) settings(b []byte) []byte {
	for _, part := range []struct {
		title string
		rows  []Setting
	}{{"bounds", r.d.Bounds}, {"sysctls", r.d.Sysctls}} {
		if len(part.rows) == 0 {
			continue
		}
		t := &table{indent: "  ", color: r.color, columns: []tableColumn{{title: "name"}, {title: "value", right: true}, {title: "note"}}}
		for _, s := range part.rows {
			t.add(safeText(s.Name), safeText(s.Value), safeText(s.Note))
		}
		b = t.append(heading(b, r.color, part.title))
	}
	return b
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return safeText(s)
}

// BytesText writes bytes in binary units.
func BytesText(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
