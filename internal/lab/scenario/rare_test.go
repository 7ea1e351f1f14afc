package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// T19: synproxy answers a SYN itself; an ACK must carry its cookie.
func TestT19Synproxy(t *testing.T) {
	for name, src := range map[string]netip.Addr{"v4": netlab.ClientV4, "v6": netlab.ClientV6} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			sysctl(t, r, "nf_conntrack_tcp_loose", 0)
			synproxy(t, r, src.Is6())
			dst, server := netlab.Sink(0), netlab.ServerV4
			if src.Is6() {
				dst, server = netlab.Sink6(0), netlab.ServerV6
			}
			watch := trace.Start(t, r.R)
			tuple := event.Tuple{Src: src, Dst: dst, Sport: 4000, Dport: 7000, Proto: event.ProtoTCP}
			_, err := r.SendPackets(netlab.SendOptions{}, netlab.Packet{Tuple: tuple, Flags: netlab.SYN, Seq: 1})
			must(t, err)
			must(t, r.Drain())
			watch.Check()
			got := watch.In(r.R)
			// The answer belongs to no flow: conntrack calls it invalid.
			answers := got.Traced.Reasons[event.InvalidPacket]
			want := trace.Want{
				Reasons: trace.Reasons{event.SynproxyConsumed: 1, event.InvalidPacket: answers}, Kernel: trace.Counters{ctnl.StatInvalid: answers},
			}
			got.Is(t, want)
			_, err = r.SendPackets(netlab.SendOptions{}, netlab.Packet{Tuple: tuple, Flags: netlab.ACK, Seq: 2, Ack: 12345})
			must(t, err)
			must(t, r.Drain())
			watch.Check()
			want.Reasons[event.InvalidPacket]++
			want.Reasons[event.SynproxyCookie] = 1
			want.Kernel[ctnl.StatInvalid]++
			got.Is(t, want)
			for _, e := range got.Of(func(e *event.Event) bool {
				return e.Reason == event.SynproxyConsumed || e.Reason == event.SynproxyCookie
			}) {
				if e.Orig != tuple {
					t.Errorf("%s: %v, want %v", e.Reason, e.Orig, tuple)
				}
			}
			// A true client gets through.
			s, err := r.ServeTCP(netip.AddrPortFrom(server, 8080))
			must(t, err)
			defer s.Close()
			c, err := r.ConnectTCP(t.Context(), netlab.ConnectOptions{N: 2, Src: netlab.OneAddr(src), Dst: s.Addr()})
			must(t, err)
			must(t, r.Drain())
			watch.Check()
			if x := got.Traced; c.OK != 2 || x.New != 2 || x.Reasons[event.SynproxyConsumed] != 3 || x.Reasons[event.SynproxyCookie] != 1 {
				t.Errorf("%+v; %v", c, trace.Summary(x))
			}
		})
	}
}

// synproxy puts it in front of ports 7000 and 8080.
func synproxy(t *testing.T, r *netlab.Router, v6 bool) {
	t.Helper()
	if v6 && release(t) < 6_01 { // nftables of 5.10 checks the checksum of IPv4 there
		run(t, r, "ip6tables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "tcp", "--syn", "-m", "multiport", "--dports", "7000,8080", "-j", "CT", "--notrack")
		run(t, r, "ip6tables-legacy", "-A", "FORWARD", "-p", "tcp", "-m", "multiport", "--dports", "7000,8080", "-m", "conntrack", "--ctstate", "INVALID,UNTRACKED",
			"-j", "SYNPROXY", "--mss", "1460", "--wscale", "7", "--timestamp", "--sack-perm")
		return
	}
	must(t, r.R.NFT(`table inet zz {
		chain raw { type filter hook prerouting priority -300; tcp dport { 7000, 8080 } tcp flags & (fin|syn|rst|ack) == syn notrack; }
		chain f { type filter hook forward priority 0;
			tcp dport { 7000, 8080 } ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm; }; }`))
}

// T21: NAT takes the port of a closed connection (6.5 and later); before, the
// port is taken and the packet lost.
func TestT21PortReuse(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoTCP}, netlab.OnePort(10000)))
	tcp := forge(t, r)
	tcp.Seen = func(o event.Tuple) event.Tuple { o.Src, o.Sport = netlab.RouterBV4, 10000; return o }
	watch := trace.Start(t, r.R)
	must(t, tcp.Open(t.Context()))
	must(t, tcp.Shut(t.Context()))
	second := event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Sport: 4001, Dport: 80, Proto: event.ProtoTCP}
	_, err := r.SendPackets(netlab.SendOptions{}, netlab.Packet{Tuple: second, Flags: netlab.SYN, Seq: 1 << 24})
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	want := trace.Want{New: 2, Causes: trace.Causes{event.NATPortReuse: 1}}
	if release(t) < 6_05 {
		want = trace.Want{New: 1, Reasons: trace.Reasons{event.NATExhausted: 1}, Kernel: trace.Counters{ctnl.StatDrop: 1, ctnl.StatInsertFailed: 1}}
	}
	watch.In(r.R).Is(t, want)
}

// T22: a masqueraded flow leaves by another interface. Its entry is killed and
// the packet with it.
func TestT22OifChanged(t *testing.T) {
	for name, proto := range map[string]uint8{"udp": event.ProtoUDP, "tcp": event.ProtoTCP} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			must(t, r.SecondLink())
			must(t, r.R.Masquerade(netlab.Match{Proto: proto}, netlab.Ports{}))
			f := firstPackets(1)[name+"4"]
			watch := trace.Start(t, r.R)
			send(t, r, f)
			must(t, r.R.Via(netip.PrefixFrom(netlab.Sink(0), 32), netlab.ServerCV4))
			send(t, r, f)
			watch.Check()
			got := watch.In(r.R)
			want := trace.Want{New: 1, Reasons: trace.Reasons{event.NATOifChanged: 1}, Causes: trace.Causes{event.CauseOifChanged: 1}}
			got.Is(t, want)
			send(t, r, f) // now by the new way
			watch.Check()
			want.New++
			got.Is(t, want)
			for _, e := range got.Events {
				if e.Orig != f.Tuple(0) {
					t.Errorf("%s %s of %v", e.Kind, e.Reason, e.Orig)
				}
			}
		})
	}
}

// Packets held by an NFQUEUE are lost when user space says so, or goes away.
func TestQueueDrop(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.R.QueueTo(7, netlab.Match{Proto: event.ProtoUDP}))
	q, err := r.R.OpenQueue(7)
	must(t, err)
	watch := trace.Start(t, r.R)
	_, err = r.SendFlows(t.Context(), udp(5), netlab.SendOptions{})
	must(t, err)
	ids, err := q.Hold(5, 10*time.Second)
	must(t, err)
	must(t, q.Accept(ids[0]))
	must(t, q.Drop(ids[1:3]...))
	must(t, q.Close())
	must(t, r.Drain())
	watch.Until(r.R, 10*time.Second, "the queue is flushed", func(c probe.Counters) bool { return c.Free >= 4 })
	watch.Check()
	got := watch.In(r.R)
	lost := got.Traced.Reasons[event.OtherNew]
	got.Is(t, trace.Want{New: 1, Reasons: trace.Reasons{event.OtherNew: lost, event.RulesetNew: 4 - lost}})
	for _, e := range got.Of(trace.ByKind(event.Drop)) {
		t.Logf("%s at %s, kernel reason %s", e.Reason, names.Symbol(e.Location), names.KfreeReason(e.KfreeReason))
	}
}

// Two SYNs on a closed connection at once. Both want to reopen it; one kills
// the entry, the other is lost.
func TestReopenRace(t *testing.T) {
	r := router(t, netlab.Options{})
	var tuples []event.Tuple
	for i := range 200 {
		tuples = append(tuples, event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(i), Sport: 4000, Dport: 80, Proto: event.ProtoTCP})
	}
	tcp, err := r.ForgeTCP(netlab.SendOptions{}, tuples...)
	must(t, err)
	defer tcp.End()
	for try := range tries {
		watch := trace.Start(t, r.R)
		must(t, tcp.Open(t.Context()))
		must(t, tcp.Shut(t.Context()))
		stop := unrest(t)
		race(t, len(tuples), []*netlab.NS{r.A, r.A}, r, func(_, i int) netlab.Packet {
			return netlab.Packet{Tuple: tuples[i], Flags: netlab.SYN, Seq: 1 << 24}
		})
		stop()
		watch.Check()
		got := watch.In(r.R)
		lost, clash := got.Traced.Reasons[event.TCPReopenRace], got.Traced.Reasons[event.ClashSameFlow]
		got.Is(t, trace.Want{
			New:     400,
			Reasons: trace.Reasons{event.TCPReopenRace: lost, event.ClashSameFlow: clash, event.InvalidPacket: got.Traced.Reasons[event.InvalidPacket]},
			Causes:  trace.Causes{event.TCPReopen: 200},
			Kernel: trace.Counters{ctnl.StatDrop: lost + clash, ctnl.StatInsertFailed: clash,
				ctnl.StatInvalid: lost + got.Traced.Reasons[event.InvalidPacket]},
		})
		t.Logf("try %d: %d lost, %d clashed", try, lost, clash)
		if lost > 0 {
			return
		}
		run(t, r, "conntrack", "-F")
	}
	t.Errorf("no race in %d tries", tries)
}

// A module that extends entries goes away while packets are between their
// lookup and their insert. Kernels with a generation of extensions (6.1 here)
// refuse those that are still on their way; 5.10 marks them as dying.
func TestExtensionUnload(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.SetSysctl(r.R, "net.netfilter.nf_conntrack_acct", "1")) // an extension for every entry
	must(t, r.R.QueueTo(7, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(53)}))
	must(t, r.R.SlowDown(netlab.Forward, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(54)}, 2*slow))
	q, err := r.R.OpenQueue(7)
	must(t, err)
	defer q.Close()
	watch := trace.Start(t, r.R)
	// One CPU sends without end what takes long between lookup and insert.
	direct := udp(60000)
	direct.DPorts.First = 54
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	truth := &netlab.Truth{}
	go func() {
		var err error
		if truth, err = r.SendFlows(ctx, direct, netlab.SendOptions{CPU: 1, Burst: 1, Rate: 1e6}); errors.Is(err, context.Canceled) {
			err = nil
		}
		done <- err
	}()
	raced := func() bool { // on an emulated machine ten times are not always enough
		c := watch.Counters(r.R)
		switch release(t) {
		case 6_01:
			return c.Reasons[event.ExtStale] > 0
		case 5_10:
			return c.Reasons[event.CTDying] > 0
		}
		return true
	}
	queued := udp(20)
	var sent, dropped uint64
	for tries := 0; tries < 10 || tries < 50 && !raced(); tries++ {
		must(t, exec.Command("modprobe", "nf_conntrack_tftp").Run())
		removed := make(chan error, 1)
		go func() { removed <- exec.Command("rmmod", "nf_conntrack_tftp").Run() }()
		var held []uint32
		for gone := false; !gone; {
			gone = len(removed) > 0 // once more after that
			_, err := r.SendFlows(t.Context(), queued, netlab.SendOptions{})
			must(t, err)
			queued.SPorts.First += 20
			sent += 20
			for n := 20; n > 0; {
				ids, err := q.Hold(n, 10*time.Second)
				switch {
				case errors.Is(err, unix.ENOENT): // of a verdict on one that was gone
				case errors.Is(err, netlab.ErrTimeout):
					// The queue drops those whose entry died on the way to it (nf_ct_drop_unconfirmed;
					// 5.10 marks them so), and 6.1 has been seen to take 4 of 20. Whatever it
					// does not take has to be in our account.
					dropped += uint64(n - len(ids))
					n = len(ids)
				default:
					must(t, err)
				}
				held, n = append(held, ids...), n-len(ids)
			}
		}
		must(t, <-removed)
		must(t, q.Accept(held...)) // where they are not gone
	}
	stop()
	must(t, <-done)
	sent += truth.Packets()
	must(t, r.Drain())
	watch.Check()
	got := watch.In(r.R)
	x := &got.Traced
	stale, dying, flushed := x.Reasons[event.ExtStale], x.Reasons[event.CTDying], x.Reasons[event.OtherNew]+x.Reasons[event.RulesetNew]
	t.Logf("sent %d: %v", sent, trace.Summary(*x))
	got.Is(t, trace.Want{
		New:     sent - stale - dying - flushed - x.ExtPost,
		Reasons: trace.Reasons{event.ExtStale: stale, event.CTDying: dying, event.OtherNew: x.Reasons[event.OtherNew], event.RulesetNew: x.Reasons[event.RulesetNew]},
		Causes:  trace.Causes{event.CauseExtStale: x.ExtPost},
		Kernel:  trace.Counters{ctnl.StatInsertFailed: stale + dying, ctnl.StatDrop: x.ExtPost},
	})
	t.Logf("%d were lost while they were new, the queue took %d less than were sent", flushed, dropped)
	if flushed < dropped {
		t.Error("it dropped more than we say")
	}
	switch v := release(t); {
	case v == 6_01 && stale == 0:
		t.Error("no entry was stale")
	case v == 5_10 && dying == 0:
		t.Error("no entry was dying")
	case v != 6_01 && stale > 0, v >= 5_19 && dying > 0:
		t.Error("this kernel has no such check")
	}
}

// TC's act_ct takes a flow over in the direction of a reply: the entry is
// killed and made anew the other way round.
func TestForceCommit(t *testing.T) {
	r := router(t, netlab.Options{})
	s, err := r.ServeUDP(netip.AddrPortFrom(netlab.ServerV4, 53))
	must(t, err)
	defer s.Close()
	run(t, r, "tc", "qdisc", "add", "dev", "rb", "clsact")
	run(t, r, "tc", "filter", "add", "dev", "rb", "ingress", "protocol", "ip", "matchall", "action", "ct", "pipe", "action", "ct", "commit", "force")
	watch := trace.Start(t, r.R)
	c, err := r.QueryUDP(t.Context(), netlab.ConnectOptions{N: 3, Src: netlab.OneAddr(netlab.ClientV4), Dst: s.Addr(), Parallel: 1})
	must(t, err)
	must(t, r.Drain())
	// The flow table of act_ct keeps what was killed for another second.
	watch.Until(r.R, 20*time.Second, "the killed entries are freed", func(c probe.Counters) bool { return c.Free >= 3 })
	watch.Check()
	got := watch.In(r.R)
	got.Is(t, trace.Want{New: 6, Causes: trace.Causes{event.ForceCommit: 3}})
	if c.OK != 3 {
		t.Errorf("%+v", c)
	}
	made := newBy(t, got)
	for _, e := range got.Of(trace.ByCause(event.ForceCommit)) {
		if made[e.Orig] != 1 || made[e.Orig.Inverse()] != 1 {
			t.Errorf("%v was not taken over", e.Orig)
		}
	}
}

// IPVS ends a connection and takes its entry along.
func TestIPVS(t *testing.T) {
	if _, err := exec.LookPath("ipvsadm"); err != nil {
		t.Skip("needs ipvsadm")
	}
	r := router(t, netlab.Options{})
	if err := exec.Command("modprobe", "ip_vs_rr").Run(); err != nil {
		t.Skip("this kernel has no IPVS")
	}
	must(t, r.SetSysctl(r.R, "net.ipv4.vs.conntrack", "1"))
	run(t, r, "ipvsadm", "-A", "-u", "10.0.1.1:5000", "-s", "rr")
	run(t, r, "ipvsadm", "-a", "-u", "10.0.1.1:5000", "-r", "10.0.2.2:7000", "-m")
	run(t, r, "ipvsadm", "--set", "1", "1", "1")
	f := udp(3)
	f.Dst, f.DPorts = netlab.OneAddr(netlab.RouterAV4), netlab.OnePort(5000)
	must(t, r.B.Count("arrived", netlab.Prerouting, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(7000)}))
	watch := trace.Start(t, r.R)
	truth := send(t, r, f)
	watch.Destroyed(r.R, 3)
	watch.Check()
	got := watch.In(r.R)
	got.Is(t, trace.Want{New: 3, Causes: trace.Causes{event.IPVS: 3}})
	got.AccountsFor(t, truth)
	if n, _, err := r.B.Counter("arrived"); err != nil || n != 3 {
		t.Errorf("%d packets arrived (%v), want 3", n, err)
	}
}

// T20: there is no memory for an entry.
func TestT20NoMemory(t *testing.T) {
	r := router(t, netlab.Options{})
	run(t, r, "iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "53", "-j", "NFQUEUE", "--queue-num", "7")
	starve(t, r, 600, event.CTNoMem, func(lost uint64) trace.Counters { return trace.Counters{ctnl.StatDrop: lost} })
}

// starve sends packets without memory until some are lost for a reason, and
// checks that nothing else has happened and what the kernel has counted.
func starve(t *testing.T, r *netlab.Router, n uint64, reason event.Reason, kernel func(lost uint64) trace.Counters) {
	t.Helper()
	watch := trace.Start(t, r.R)
	truth := &netlab.Truth{}
	const before = 4000
	for try := range uint64(tries) {
		// What the slab has in reserve from tests before is used up first.
		f, g := udp(before), udp(int(n))
		f.DPorts.First = 54
		f.Dst, g.Dst = netlab.OneAddr(netlab.Sink(int(try))), netlab.OneAddr(netlab.Sink(int(try)))
		truth.Add(send(t, r, f))
		truth.Add(withoutMemory(t, r, g))
		watch.Check()
		got := watch.In(r.R)
		lost := got.Traced.Reasons[reason]
		got.Is(t, trace.Want{
			New: (try+1)*(before+n) - lost, Reasons: trace.Reasons{reason: lost}, Causes: expired(&got.Traced), Kernel: kernel(lost),
		})
		got.AccountsFor(t, truth)
		if lost > 0 {
			t.Logf("%d refused", lost)
			return
		}
	}
	t.Error("memory for everybody")
}

// NAT finds no memory for the sequence numbers that a helper may want to change.
// The extensions of an entry get 128 bytes at first, and 192 next, which the
// queue gives back with every packet; so the entry is given all there is until
// only what NAT adds does not fit into 192.
func TestNATSetup(t *testing.T) {
	r := router(t, netlab.Options{})
	for _, name := range []string{"nf_conntrack_acct", "nf_conntrack_timestamp", "nf_conntrack_events"} {
		sysctl(t, r, name, 1)
	}
	must(t, r.R.NFT(`table ip zz { ct helper h { type "tftp" protocol udp; };
		ct timeout t { protocol udp; policy = { unreplied : 600 }; };
		chain h { type filter hook prerouting priority -150; meta l4proto udp ct helper set "h" ct timeout set "t" ct label set 1; };
		chain q { type filter hook forward priority 0; udp dport 53 queue num 7; }; }`))
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoUDP}, netlab.Ports{}))
	starve(t, r, 900, event.NATSetup, func(uint64) trace.Counters { return nil })
}

// withoutMemory sends packets that a rule puts into queue 7, and lets them all
// go while the kernel is told to keep more memory free than there is: then
// allocations that may not sleep fail.
func withoutMemory(t *testing.T, r *netlab.Router, f netlab.Flows) *netlab.Truth {
	t.Helper()
	q, err := r.R.OpenQueue(7)
	must(t, err)
	defer q.Close()
	const minFree = "/proc/sys/vm/min_free_kbytes"
	old, err := os.ReadFile(minFree)
	must(t, err)
	// Whoever else asks for memory meanwhile makes the kernel kill somebody.
	must(t, os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0))
	must(t, r.SetSysctl(nil, "vm.oom_dump_tasks", "0"))
	for range 20 {
		victim := exec.Command("sleep", "1000")
		must(t, victim.Start())
		t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
		must(t, os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", victim.Process.Pid), []byte("1000"), 0))
	}
	truth := &netlab.Truth{}
	var ids []uint32
	for i := range 20 {
		part := f.Part(i, 20)
		some, err := r.SendFlows(t.Context(), part, netlab.SendOptions{})
		must(t, err)
		truth.Add(some)
		held, err := q.Hold(int(some.Packets()), 20*time.Second)
		must(t, err)
		ids = append(ids, held...)
	}
	message, socket, err := q.AcceptThrough(ids[len(ids)-1])
	must(t, err)
	defer socket.Close()
	// A shell does it, with what is built into it: nothing that it then still
	// would have to find room for. The first round is a rehearsal.
	quote := ""
	for _, b := range message {
		quote += fmt.Sprintf("\\x%02x", b)
	}
	script := `echo $1 >&3; printf "$2" >&8; echo $1 >&4
		echo 16777216 >&5 || exit 1; printf "$2" >&7; echo $1 >&6`
	shell := exec.Command("bash", "-c", script, "-", strings.TrimSpace(string(old)), quote)
	for range 4 { // a sysctl takes one write
		w, err := os.OpenFile(minFree, os.O_WRONLY, 0)
		must(t, err)
		defer w.Close()
		shell.ExtraFiles = append(shell.ExtraFiles, w)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	must(t, err)
	defer null.Close()
	shell.ExtraFiles = append(shell.ExtraFiles, socket, null)
	out, err := shell.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, r.Drain())
	return truth
}
