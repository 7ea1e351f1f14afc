package vm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const qemu = "qemu-system-x86_64"

// EnvAccel chooses how QEMU runs the guest: "tcg" (emulation, the default) or "kvm". Stock
// kernels hang under KVM on some nested hosts although /dev/kvm exists, hence no guessing.
const EnvAccel = "CTSIGHT_LAB_ACCEL"

// Descriptors that QEMU inherits, in the order of exec.Cmd.ExtraFiles.
const (
	fdConsole = iota + 3
	fdResults
	fdInitramfs
)

// qemuArgs returns QEMU's command line. Serial ports and initramfs are inherited descriptors,
// so nothing is left behind however we end.
func qemuArgs(img Image, o Options) ([]string, error) {
	args, err := machineArgs(o)
	if err != nil {
		return nil, err
	}
	return append(args,
		"-m", strconv.Itoa(o.MemoryMB), "-nodefaults", "-no-user-config", "-no-reboot", "-nic", "none",
		"-display", "none", "-monitor", "none",
		"-chardev", fmt.Sprintf("file,id=console,path=/proc/self/fd/%d", fdConsole), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("file,id=results,path=/proc/self/fd/%d", fdResults), "-serial", "chardev:results",
		"-kernel", img.vmlinuz(), "-initrd", fmt.Sprintf("/proc/self/fd/%d", fdInitramfs), "-append", kernelCommandLine(o)), nil
}

// machineArgs returns accelerator and CPUs. One thread emulates all CPUs in turns: with a thread
// each, QEMU 7.2 may keep a translation of code that another CPU has just patched, and the guest
// dies of an int3 that nobody claims. Guests run side by side anyway. With ICount one virtual
// nanosecond is one instruction, and two equal runs agree to the instruction. Each step of a
// string instruction counts: without ERMS and FSRM the kernel copies eight bytes at a step, not one.
func machineArgs(o Options) ([]string, error) {
	switch accel := os.Getenv(EnvAccel); {
	case o.ICount:
		return []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1",
			"-cpu", "max,+invtsc,-erms,-fsrm", "-rtc", "base=2024-01-01,clock=vm", "-seed", "1"}, nil
	case accel == "kvm":
		return []string{"-accel", "kvm", "-cpu", "host", "-smp", strconv.Itoa(o.CPUs)}, nil
	case accel == "" || accel == "tcg":
		return []string{"-accel", "tcg,thread=single", "-cpu", "qemu64", "-smp", strconv.Itoa(o.CPUs)}, nil
	default:
		return nil, fmt.Errorf("%s is %q, want tcg or kvm", EnvAccel, accel)
	}
}

// kernelCommandLine returns the guest kernel's arguments. An oops ends the run: results of a
// kernel that has gone wrong once are not worth reading.
//
// An emulated TSC is the host's, so it can be relied on; the kernel does not believe it and
// would take the HPET, which costs a system call and an exit to QEMU at each look at the time. A
// machine that stands still for a moment must not look like one with a broken timer.
func kernelCommandLine(o Options) string {
	args := []string{"console=ttyS0", "panic=-1", "oops=panic", "quiet", "mitigations=off", "cryptomgr.notests",
		"tsc=reliable", "no_timer_check"}
	if o.ICount {
		args = append(args, "nokaslr", "norandmaps")
	} else {
		args = append(args, "rcupdate.rcu_expedited=1")
	}
	return strings.Join(append(args, o.Append...), " ")
}
