package lab_test

import (
	"os"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
)

func TestInVM(t *testing.T) {
	t.Setenv(lab.EnvKernel, "")
	if lab.InVM() {
		t.Error("InVM is true without the variable")
	}
	t.Setenv(lab.EnvKernel, "6.1")
	if !lab.InVM() || lab.KernelName() != "6.1" {
		t.Errorf("InVM %t, kernel %q, want true, 6.1", lab.InVM(), lab.KernelName())
	}
}

func TestNeedVM(t *testing.T) {
	skipped := skips(t, func(t *testing.T) { lab.NeedVM(t) })
	if skipped == lab.InVM() {
		t.Errorf("skipped %t, in VM %t", skipped, lab.InVM())
	}
}

func TestNeedRoot(t *testing.T) {
	skipped := skips(t, func(t *testing.T) { lab.NeedRoot(t) })
	if skipped == (os.Geteuid() == 0) {
		t.Errorf("skipped %t as uid %d", skipped, os.Geteuid())
	}
}

// skips runs f as a subtest and reports whether f skipped it.
func skips(t *testing.T, f func(*testing.T)) (skipped bool) {
	t.Run("inner", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		f(t)
	})
	return skipped
}
