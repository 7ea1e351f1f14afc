package ctnl

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSentinel(t *testing.T) {
	for _, tc := range []struct {
		in, want error
	}{
		{unix.EPERM, ErrPermission},
		{os.NewSyscallError("socket", unix.EPROTONOSUPPORT), ErrNotLoaded},
		{fmt.Errorf("send: %w", unix.ENOENT), ErrNotFound},
		{unix.EEXIST, ErrExists},
		{os.ErrDeadlineExceeded, ErrTimeout},
		{unix.ENOMEM, unix.ENOMEM},
		{unix.EINVAL, unix.EINVAL},
	} {
		got := sentinel(tc.in)
		if !errors.Is(got, tc.want) || !errors.Is(got, tc.in) {
			t.Errorf("%v became %v, want %v", tc.in, got, tc.want)
		}
		if strings.Contains(got.Error(), "\n") {
			t.Errorf("more than one line: %v", got)
		}
	}
	if sentinel(nil) != nil || notLoaded(nil) != nil {
		t.Error("an error out of nothing")
	}
	if err := notLoaded(sentinel(unix.EINVAL)); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("no subsystem: %v", err)
	}
}
