package scenario

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// bridge builds a bridge in R that shows its packets to the hooks of IP and
// floods them to two ports: both copies share the entry that is not yet in the
// table. A rule hands the copies of each port to a queue. The function it
// returns puts a packet on the third port.
func bridge(t *testing.T, r *netlab.Router, queues [2]string) (send func(event.Tuple) error) {
	t.Helper()
	if err := exec.Command("modprobe", "br_netfilter").Run(); err != nil {
		t.Skip("this kernel has no br_netfilter")
	}
	must(t, r.SetSysctl(r.R, "net.ipv6.conf.default.disable_ipv6", "1"))
	must(t, r.SetSysctl(r.R, "net.bridge.bridge-nf-call-iptables", "1"))
	run(t, r, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	run(t, r, "ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
	for i, d := range []string{"d0", "d1"} {
		run(t, r, "ip", "link", "add", d, "type", "dummy")
		run(t, r, "iptables-legacy", "-A", "FORWARD", "-m", "physdev", "--physdev-out", d, "-j", "NFQUEUE", "--queue-num", queues[i])
	}
	for _, d := range []string{"p1", "d0", "d1"} {
		run(t, r, "ip", "link", "set", d, "master", "br0", "up")
	}
	run(t, r, "ip", "link", "set", "br0", "up")
	run(t, r, "ip", "link", "set", "p0", "up")
	var fd int
	var to unix.SockaddrLinklayer
	must(t, r.R.Do(func() error {
		p0, err := net.InterfaceByName("p0")
		if err != nil {
			return err
		}
		to = unix.SockaddrLinklayer{Protocol: 8, Ifindex: p0.Index, Halen: 6, Addr: [8]byte{2, 0, 0, 0, 0, 9}} // ETH_P_IP, nobody
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	return func(tuple event.Tuple) error {
		b, err := (&netlab.Packet{Tuple: tuple}).Append(nil)
		return errors.Join(err, unix.Sendto(fd, b, 0, &to))
	}
}

func flooded(i int) event.Tuple {
	return event.Tuple{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Sport: uint16(1024 + i), Dport: 53, Proto: event.ProtoUDP}
}

// An NFQUEUE takes no copy of a packet whose entry is not in the table;
// that of 5.10 does. The last one is no copy any more.
func TestQueueClone(t *testing.T) {
	r := router(t, netlab.Options{})
	q, err := r.R.OpenQueue(7)
	must(t, err)
	defer q.Close()
	send := bridge(t, r, [2]string{"7", "7"})
	watch := trace.Start(t, r.R)
	const n = 5
	each := 1
	if release(t) < 5_15 {
		each = 2
	}
	for i := range n {
		must(t, send(flooded(i)))
		ids, err := q.Hold(each, 10*time.Second)
		must(t, err)
		must(t, q.Accept(ids...))
	}
	watch.Check()
	got := watch.In(r.R)
	want := trace.Want{New: n}
	if each == 1 {
		want.Reasons = trace.Reasons{event.NFQueueClone: n}
	}
	got.Is(t, want)
	newBy(t, got)
}

// Two copies are let go at the same moment. Where the queue takes both, as on
// 5.10, both may find the entry not inserted, and the second is lost.
func TestDoubleConfirm(t *testing.T) {
	if release(t) >= 5_15 {
		t.Skip("this kernel queues no copies: docs/not-reproducible.md")
	}
	r := router(t, netlab.Options{})
	var q [2]*netlab.Queue
	for i := range q {
		var err error
		q[i], err = r.R.OpenQueue(uint16(7 + i))
		must(t, err)
		defer q[i].Close()
	}
	send := bridge(t, r, [2]string{"7", "8"})
	watch := trace.Start(t, r.R)
	const n = 300
	for try := range tries {
		stop := unrest(t)
		acceptBoth(t, q, n, func(i int) error { return send(flooded(try*n + i)) })
		stop()
		watch.Check()
		got := watch.In(r.R)
		lost := got.Traced.Reasons[event.DoubleConfirm]
		got.Is(t, trace.Want{New: uint64(n * (try + 1)), Reasons: trace.Reasons{event.DoubleConfirm: lost}})
		made := newBy(t, got)
		for _, e := range got.Of(trace.ByKind(event.Drop)) {
			if made[e.Orig] != 1 {
				t.Errorf("%s: %v", e.Reason, e.Orig)
			}
		}
		t.Logf("try %d: %d lost", try, lost)
		if lost > 0 {
			return
		}
	}
	t.Errorf("nothing lost in %d tries", tries)
}

// acceptBoth sends n packets and lets the copy in each queue go at the same
// moment.
func acceptBoth(t *testing.T, q [2]*netlab.Queue, n int, send func(i int) error) {
	t.Helper()
	b := netlab.NewBarrier(2)
	var errs [2]error
	var wg sync.WaitGroup
	for k := range q {
		wg.Go(func() {
			defer b.Leave()
			for i := range n {
				if k == 0 {
					errs[k] = errors.Join(errs[k], send(i))
				}
				ids, err := q[k].Hold(1, 10*time.Second)
				if err != nil {
					errs[k] = errors.Join(errs[k], err)
					return
				}
				b.Wait()
				errs[k] = errors.Join(errs[k], q[k].Accept(ids...))
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(errs[0], errs[1]))
}
