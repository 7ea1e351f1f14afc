package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotPossible: this kernel, or this process's privileges, do not
	// allow it. The message says which.
	ErrNotPossible = errors.New("not possible here")
	// ErrNotLoaded: nf_conntrack is neither built in nor loaded.
	ErrNotLoaded = errors.New("nf_conntrack is not loaded: load it (modprobe nf_conntrack), or add a rule that needs it")
)

// explain turns a kernel's answer into a line that names the remedy.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case os.Geteuid() != 0 && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)):
		return fmt.Errorf("%w: run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN", err)
	case errors.Is(err, unix.EPERM) && confidential():
		return fmt.Errorf("%w: %w", err, errLockedDown)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: the kernel refuses such programs (lockdown or a missing capability: CAP_SYS_ADMIN)", err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, btf.ErrNotFound):
		return fmt.Errorf("%w: the kernel has no BTF for it (CONFIG_DEBUG_INFO_BTF, CONFIG_DEBUG_INFO_BTF_MODULES)", err)
	}
	return err
}

// errLockedDown is why lockdown=confidentiality takes no program of ours; the
// lesser mode, integrity, does.
var errLockedDown = errors.New("the kernel is locked down (lockdown=confidentiality) and lets no program read its memory: boot with lockdown=integrity")

func confidential() bool { return Lockdown() == "confidentiality" }

// Lockdown returns the mode in brackets of the lockdown file; "none" where
// there is no such security module, which does not mean that nothing is
// refused, and "" where it cannot be read.
func Lockdown() string {
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if errors.Is(err, os.ErrNotExist) {
		return "none"
	}
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}

// conntrackPresent says whether nf_conntrack is loaded or built in.
func conntrackPresent(mods map[string][2]uint64) bool {
	if _, ok := mods["nf_conntrack"]; ok {
		return true
	}
	if _, err := os.Stat("/sys/module/nf_conntrack/initstate"); err == nil {
		return false // a module that is coming or going, if it is not in mods
	}
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max")
	return err == nil
}

// Jiffy is the length of a kernel tick. The tick of user space's clock
// (USER_HZ) does not tell; the resolution of the coarse clock does.
func Jiffy() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil || ts.Nano() == 0 {
		return 4 * time.Millisecond
	}
	return time.Duration(ts.Nano())
}
