package vm

import "errors"

var (
	// ErrPanic is returned by Run when the guest's kernel panicked or oopsed.
	ErrPanic = errors.New("guest kernel panic")
	// ErrTimeout is returned by Run when the guest took longer than Options.Timeout.
	ErrTimeout = errors.New("guest timed out")
	// ErrNoResult is returned by Run when QEMU ended before the guest reported its exit code.
	ErrNoResult = errors.New("guest ended without a result")
	// ErrNoMirror is returned by Fetch when this machine's apt knows no Debian mirror.
	ErrNoMirror = errors.New("no Debian mirror in the apt configuration")
)
