// Package sandbox takes from this process what it needs no more once it traces:
// capabilities, the gain of new ones, and with Landlock most files and ports.
// All of it is for every thread and cannot be taken back. When to do it, and what
// is needed after it, is the caller's to know.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// Need is a capability that is kept, and why.
type Need struct {
	Name string // as in capabilities(7), in lower case
	Why  string
}

// Needs are what ctsight needs while it traces. What it needs only before (a port
// below 1024, memory to lock on kernels before 5.11) is not among them.
func Needs() []Need {
	return []Need{
		{"cap_bpf", "read BPF maps, attach again"},
		{"cap_perfmon", "attach again, read kernel memory"},
		{"cap_net_admin", "conntrack over netlink, our table of nftables"},
		{"cap_sys_admin", "enter other network namespaces, types of modules"},
		{"cap_syslog", "addresses in /proc/kallsyms"},
		{"cap_sys_ptrace", "find the network namespaces of others' processes"},
		{"cap_sys_nice", "readers run before others"},
	}
}

// Dropped is what Drop did, by names of capabilities in the order of their numbers.
type Dropped struct {
	Kept    []Need
	Missing []Need   // needed, but they were not there
	Dropped []string // from the permitted set
	// Bounding says that the bounding set is down to what is kept. It takes
	// CAP_SETPCAP; without it no_new_privs alone keeps a program from more.
	Bounding bool
}

// String is one line for the log.
func (d Dropped) String() string {
	var kept, missing []string
	for _, n := range d.Kept {
		kept = append(kept, fmt.Sprintf("%s (%s)", n.Name, n.Why))
	}
	for _, n := range d.Missing {
		missing = append(missing, fmt.Sprintf("%s (%s)", n.Name, n.Why))
	}
	s := "kept: " + list(kept) + "; dropped: " + list(d.Dropped)
	if len(missing) > 0 {
		s += "; was never there: " + list(missing)
	}
	if !d.Bounding {
		s += "; bounding set as it was, for want of cap_setpcap"
	}
	return s
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Drop sets no_new_privs and leaves of all capabilities those in needs, as far as
// they are there: in the permitted, effective and bounding sets. The inheritable
// and ambient sets are emptied, since ctsight starts no program.
func Drop(needs []Need) (Dropped, error) {
	// Through the library: all threads, or, where one of them refuses, none.
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return Dropped{}, fmt.Errorf("no_new_privs: %w", err)
	}
	d, keep, err := choose(needs)
	if err != nil {
		return Dropped{}, err
	}
	if d.Bounding, err = bound(keep); err != nil {
		return Dropped{}, fmt.Errorf("drop the bounding set: %w", err)
	}
	if err := cap.ResetAmbient(); err != nil {
		return Dropped{}, fmt.Errorf("drop ambient capabilities: %w", err)
	}
	if err := apply(keep); err != nil {
		return Dropped{}, fmt.Errorf("drop capabilities: %w", err)
	}
	return d, nil
}

// choose divides what there is.
func choose(needs []Need) (d Dropped, keep []cap.Value, err error) {
	have := cap.GetProc()
	for _, n := range needs {
		v, err := cap.FromName(n.Name)
		if err != nil {
			return d, nil, fmt.Errorf("capability %s: %w", n.Name, err)
		}
		// An error is a kernel that does not know it yet.
		if ok, err := have.GetFlag(cap.Permitted, v); err != nil || !ok {
			d.Missing = append(d.Missing, n)
			continue
		}
		d.Kept = append(d.Kept, n)
		keep = append(keep, v)
	}
	for v := range cap.MaxBits() {
		if ok, _ := have.GetFlag(cap.Permitted, v); ok && !slices.Contains(keep, v) {
			d.Dropped = append(d.Dropped, v.String())
		}
	}
	return d, keep, nil
}

// bound lowers the bounding set. It comes first: CAP_SETPCAP goes with the rest.
func bound(keep []cap.Value) (done bool, err error) {
	var lower []cap.Value
	for v := range cap.MaxBits() {
		if in, err := cap.GetBound(v); err == nil && in && !slices.Contains(keep, v) {
			lower = append(lower, v)
		}
	}
	if len(lower) == 0 {
		return true, nil
	}
	have := cap.GetProc()
	if ok, _ := have.GetFlag(cap.Permitted, cap.SETPCAP); !ok {
		return false, nil
	}
	if err := have.SetFlag(cap.Effective, true, cap.SETPCAP); err != nil {
		return false, err
	}
	if err := have.SetProc(); err != nil {
		return false, err
	}
	return true, cap.DropBound(lower...)
}

func apply(keep []cap.Value) error {
	only := cap.NewSet()
	for _, flag := range []cap.Flag{cap.Permitted, cap.Effective} {
		if err := only.SetFlag(flag, true, keep...); err != nil {
			return err
		}
	}
	return only.SetProc()
}

// Unreadable are those of the files that this process cannot open to read. A root
// without CAP_DAC_OVERRIDE is an ordinary owner: a key that belongs to another
// user, read at the start, could not be read at a reload. Files that are not there
// are not among them.
func Unreadable(files []string) []string {
	var out []string
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			f.Close()
		}
		if errors.Is(err, os.ErrPermission) {
			out = append(out, name)
		}
	}
	return out
}
