package probe

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
)

// linkIDs lists the links of a probe by the kernel's number.
func linkIDs(t testing.TB, p *NFProbe) (ids []link.ID) {
	t.Helper()
	all := slices.Clone(p.kfree.first.links)
	for _, net := range p.nets {
		all = append(all, net.links...)
	}
	for _, l := range all {
		info, err := l.Info()
		must(t, err)
		ids = append(ids, info.ID)
	}
	return ids
}

// waitGone waits until the kernel has freed links, which it does in the background.
func waitGone(t testing.TB, ids []link.ID) {
	t.Helper()
	for _, id := range ids {
		gone := false
		for range 500 {
			l, err := link.NewFromID(id)
			if gone = errors.Is(err, os.ErrNotExist); gone {
				break
			}
			if err == nil {
				_ = l.Close()
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !gone {
			t.Errorf("link %d is still there", id)
		}
	}
}

func fds(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(d)
}

// Close leaves no link and no descriptor, also when attaching ended half way.
func TestNetfilterLeavesNothing(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	var ids []link.ID
	once := func() {
		p, err := OpenNetfilter(Options{}, nsPath(r.R), nsPath(r.B))
		skipOld(t, err)
		must(t, err)
		mine := linkIDs(t, p)
		if len(mine) != 25 {
			t.Errorf("%d links, want 12 in each namespace and one", len(mine))
		}
		ids = append(ids, mine...)
		must(t, p.Close())
		must(t, p.Close())
		if _, err := OpenNetfilter(Options{}, nsPath(r.R), NetNSPath{Inode: 1, Path: "/proc/self/ns/net"}); err == nil {
			t.Error("attached to a namespace that is not the one named")
		}
	}
	once() // the library keeps what it found out about the kernel
	before := fds(t)
	for range 2 { // what one leaves behind shows, and each takes seconds
		once()
	}
	if after := fds(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	waitGone(t, ids)
}

const childEnv = "CTSIGHT_TEST_NETFILTER_CHILD"

// A tracer that is killed leaves nothing: its links go with its descriptors.
func TestNetfilterKilled(t *testing.T) {
	if ns := os.Getenv(childEnv); ns != "" {
		var ino event.NetNS
		_, err := fmt.Sscan(ns, &ino)
		must(t, err)
		p, err := OpenNetfilter(Options{}, NetNSPath{Inode: ino, Path: "/proc/self/fd/3"})
		must(t, err)
		fmt.Println(linkIDs(t, p))
		time.Sleep(time.Hour)
	}
	r := nfLab(t, netlab.Options{})
	p, err := OpenNetfilter(Options{})
	skipOld(t, err)
	must(t, err)
	must(t, p.Close())
	cmd := exec.Command(os.Args[0], "-test.run=^TestNetfilterKilled$")
	cmd.Env = append(os.Environ(), childEnv+"="+r.R.Inode().String())
	ns, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", r.R.FD()))
	must(t, err)
	defer ns.Close()
	cmd.ExtraFiles = []*os.File{ns}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	var ids []link.ID
	for _, f := range strings.Fields(strings.Trim(line, "[]\n")) {
		var id link.ID
		_, serr := fmt.Sscan(f, &id)
		err = errors.Join(err, serr)
		ids = append(ids, id)
	}
	for _, id := range ids {
		l, lerr := link.NewFromID(id)
		if err = errors.Join(err, lerr); lerr == nil {
			_ = l.Close()
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || len(ids) != 13 {
		t.Fatalf("child says %q: %v", line, err)
	}
	waitGone(t, ids)
}

// BenchmarkNetfilter sends through a router with conntrack, in turn without and
// with the links, and reports what a packet costs its sender in both. The
// sender's thread carries the packet through the router's softirq, so its time
// is that of the whole way.
func BenchmarkNetfilter(b *testing.B) {
	lab.NeedRoot(b)
	for _, c := range []struct {
		name  string
		fresh bool // every packet a new entry; otherwise of one known flow
	}{{"new", true}, {"known", false}} {
		b.Run(c.name, func(b *testing.B) { benchNetfilter(b, c.fresh) })
	}
}

// BenchmarkNetfilterPrograms reports what each program takes for a packet by
// the kernel's own clock, which other work of the machine disturbs less.
func BenchmarkNetfilterPrograms(b *testing.B) {
	lab.NeedRoot(b)
	for _, fresh := range []bool{true, false} {
		b.Run(map[bool]string{true: "new", false: "known"}[fresh], func(b *testing.B) {
			round := benchRound(b, fresh)
			stats, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
			must(b, err)
			defer stats.Close()
			best := map[string]float64{}
			for b.Loop() {
				for range benchRounds {
					round.progs(best)
				}
			}
			for name, ns := range best {
				b.ReportMetric(ns, "ns/"+name)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

const benchPackets, benchRounds = 10000, 15

// bencher sends rounds of packets through a router.
type bencher struct {
	b     *testing.B
	r     *netlab.Router
	fresh bool
}

func benchRound(b *testing.B, fresh bool) *bencher {
	n := &bencher{b, nfLab(b, netlab.Options{}), fresh}
	n.send()
	return n
}

// send returns nanoseconds for each packet.
func (n *bencher) send() float64 {
	_, err := n.r.R.Run("conntrack", "-F")
	must(n.b, err)
	s, err := n.r.NewSender(n.r.A, netlab.SendOptions{})
	must(n.b, err)
	defer s.Close()
	p := netlab.Packet{Tuple: event.Tuple{Src: netip.MustParseAddr("10.7.0.1"), Dst: netlab.Sink(0), Sport: 1, Dport: 7001, Proto: event.ProtoUDP}}
	t0 := time.Now()
	for i := range benchPackets {
		if n.fresh {
			p.Tuple.Sport = uint16(i + 1)
		}
		must(n.b, s.Send(p))
	}
	must(n.b, s.Sync())
	return float64(time.Since(t0)) / benchPackets
}

func (n *bencher) traced() float64 {
	tr := startNF(n.b, Options{RingBytes: 4 << 20}, n.r.R)
	defer func() { must(n.b, tr.Close()) }()
	defer tr.stop()
	return n.send()
}

// progs keeps the least time of a run of each program.
func (n *bencher) progs(best map[string]float64) {
	tr := startNF(n.b, Options{RingBytes: 4 << 20}, n.r.R)
	defer func() { must(n.b, tr.Close()) }()
	defer tr.stop()
	n.send()
	progs := maps.Clone(tr.progs)
	progs["nf_kfree"] = tr.kfree.first.progs[0]
	for name, p := range progs {
		st, err := p.Stats()
		must(n.b, err)
		if st.RunCount < benchPackets/2 {
			continue
		}
		ns := float64(st.Runtime) / float64(st.RunCount)
		if old, ok := best[name]; !ok || ns < old {
			best[name] = ns
		}
	}
}

func benchNetfilter(b *testing.B, fresh bool) {
	n := benchRound(b, fresh)
	for b.Loop() {
		var without, with []float64
		for range benchRounds {
			without = append(without, n.send())
			with = append(with, n.traced())
		}
		m0, m1 := slices.Min(without), slices.Min(with) // the rest is other work of the machine
		b.ReportMetric(m0, "ns/pkt-without")
		b.ReportMetric(m1, "ns/pkt-with")
		b.ReportMetric(m1/m0, "ratio")
	}
	b.ReportMetric(0, "ns/op")
}

// A reader that sleeps is woken by the next record: here it would sleep for an hour.
func TestNetfilterWakesReader(t *testing.T) {
	was := asleepFor
	asleepFor = 3_600_000
	t.Cleanup(func() { asleepFor = was }) // when the reader has ended
	r := nfLab(t, netlab.Options{})
	tr := startNF(t, Options{}, r.R)
	for i := range 2 {
		state := tr.p.rings[0].state
		if !patient(func() bool { return atomic.LoadUint64(&state.Asleep) == 1 }) {
			t.Fatal("the reader does not go to sleep")
		}
		_, err := r.SendFlows(t.Context(), netlab.Flows{Proto: event.ProtoUDP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.OneAddr(netlab.Sink(i)),
			SPorts: netlab.Ports{First: 1024, N: 1}, DPorts: netlab.OnePort(53)}, netlab.SendOptions{})
		must(t, err)
		if !patient(func() bool { return tr.count(func(e *event.Event) bool { return e.Kind == event.New }) == i+1 }) {
			t.Fatalf("event %d was not told", i)
		}
	}
}

// patient waits until a condition holds, for a minute.
func patient(ok func() bool) bool {
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
