// Package lab is for tests only: it says whether a test runs on a kernel it may use freely.
//
// Tests that attach probes or fill the conntrack table run inside a virtual machine that
// internal/lab/labvm boots; a plain `go test ./...` skips them. How kernels are fetched and
// booted is the business of internal/lab/vm.
package lab

import (
	"os"
	"testing"
)

// EnvKernel is set inside the VM to the name of the booted kernel, for instance "6.1".
const EnvKernel = "CTSIGHT_VM"

// InVM reports whether this process runs inside a VM of the lab.
func InVM() bool { return KernelName() != "" }

// KernelName returns the lab's name of the running kernel ("5.10", "6.1", "6.12", "newest"),
// empty outside the VM.
func KernelName() string { return os.Getenv(EnvKernel) }

// NeedVM skips the test unless it runs inside a VM of the lab.
func NeedVM(t testing.TB) {
	t.Helper()
	if !InVM() {
		t.Skip("needs a kernel that takes the probes: run `make test-vm`")
	}
}

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run it with sudo or `make test-vm`")
	}
}
