package probe

import (
	"context"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
)

func nice(t testing.TB) int {
	t.Helper()
	n, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	must(t, err)
	return 20 - n
}

// The reader's thread is before others only while it reads.
func TestGoFirst(t *testing.T) {
	lab.NeedRoot(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := nice(t)
	end := GoFirst()
	during := nice(t)
	end()
	if after := nice(t); during != first || after != before {
		t.Errorf("nice %d, then %d, then %d; want %d in between", before, during, after, first)
	}
}

// Run reads on such a thread.
func TestReaderFirst(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	p, err := OpenNetfilter(Options{}, nsPath(r.R))
	skipOld(t, err)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	_, err = r.SendFlows(t.Context(), udp("10.2.0.1", 1, 1, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // reads what is there
	reader := 100
	must(t, p.Run(ctx, func(*event.Event) error { reader = nice(t); return nil }))
	if reader != first {
		t.Errorf("nice %d, want %d", reader, first)
	}
}
