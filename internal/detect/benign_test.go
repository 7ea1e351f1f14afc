package detect_test

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
)

// outcome is what a target does.
type outcome uint8

const (
	good outcome = iota
	refused
	filtered
	rtt = 20 * time.Millisecond
)

// network makes contacts and runs an engine over them: in order, looks every 100 ms, a
// tick each second.
type network struct {
	events []event.Event
	good   map[uint64]event.Ktime // by entry: when the answer comes
}

func (n *network) contact(at time.Duration, src, dst netip.Addr, port uint16, proto uint8, o outcome) {
	if n.good == nil {
		n.good = map[uint64]event.Ktime{}
	}
	id := 1<<63 | uint64(len(n.events))
	e := event.Event{Kind: event.New, Time: event.Ktime(at), NetNS: 1, Ptr: id,
		Orig: event.Tuple{Src: src, Dst: dst, Sport: uint16(32768 + len(n.events)%30000), Dport: port, Proto: proto}}
	n.events = append(n.events, e)
	switch o {
	case good:
		n.good[id] = e.Time + event.Ktime(rtt)
	case refused:
		e.Kind, e.Time, e.Cause, e.Lifetime, e.HasLifetime = event.Destroy, e.Time+event.Ktime(rtt), event.TCPRstUnreplied, rtt, true
		n.events = append(n.events, e)
	}
}

// run returns the findings that were told, with their states.
func (n *network) run() (told []agg.Finding) {
	d := detect.New(detect.Config{Tell: func(f *agg.Finding) { told = append(told, *f) }}, 0)
	slices.SortStableFunc(n.events, func(a, b event.Event) int { return cmp.Compare(a.Time, b.Time) })
	const raster = event.Ktime(100 * time.Millisecond)
	var now event.Ktime
	looks := make([]detect.Look, 0, 64)
	end := n.events[len(n.events)-1].Time + event.Ktime(5*time.Second)
	for i := 0; now < end; {
		now += raster
		for ; i < len(n.events) && n.events[i].Time <= now; i++ {
			d.Add(&n.events[i])
		}
		for due := d.Due(now, looks); len(due) > 0; due = d.Due(now, looks) {
			for k := range due {
				s := detect.Seen{Known: true, Live: true, TCPState: event.TCPSynSent}
				if at, ok := n.good[due[k].Ptr]; ok && at <= now {
					s.Status, s.TCPState = event.SeenReply|event.Assured, event.TCPEstablished
				}
				d.Seen(&due[k], now, s)
			}
		}
		if now%event.Ktime(time.Second) == 0 {
			d.Tick(now, detect.State{})
		}
	}
	return told
}

func host(a, b, c, d int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a), byte(b), byte(c), byte(d)})
}

// scans are the findings of a scan in a state, those for information only apart.
func scans(told []agg.Finding, state string) (alarms, infos int) {
	for i := range told {
		switch f := &told[i]; {
		case f.Class != "scan" || f.State != state:
		case f.Severity == agg.Info:
			infos++
		default:
			alarms++
		}
	}
	return alarms, infos
}

var client = host(10, 0, 0, 9)

// A round of checks is made at once, and silence is known 3 s after the answers: those
// count all the same.
func TestRoleOfARound(t *testing.T) {
	for _, dead := range []int{60, 160} {
		var n network
		for round := range 3 {
			for k := range 200 {
				o := good
				if k*7%200 < dead {
					o = filtered
				} else if round > 0 {
					continue
				}
				n.contact(time.Duration(round)*2*time.Second+time.Duration(k)*10*time.Millisecond, client, host(10, 3, 0, k), 9100, event.ProtoTCP, o)
			}
		}
		told := n.run()
		if alarms, _ := scans(told, agg.Suspect); dead < 100 && alarms > 0 {
			t.Errorf("%d of 200 targets are dead: %s", dead, told[0].Why)
		} else if dead > 100 && alarms == 0 {
			t.Errorf("%d of 200 targets are dead: not even suspect", dead)
		}
	}
}

// Who finds one in four of addresses all over the Internet has a list of peers; the same
// in one network is a scan, and so is what finds nothing.
func TestPeersOnOnePort(t *testing.T) {
	for _, tc := range []struct {
		name    string
		dst     func(i int) netip.Addr
		answers bool
		want    bool
	}{
		{"peers", func(i int) netip.Addr { return host(11+i*37%89, i*59%256, i%256, 7) }, true, false},
		{"nobody answers", func(i int) netip.Addr { return host(11+i*37%89, i*59%256, i%256, 7) }, false, true},
		{"one network", func(i int) netip.Addr { return host(198, 18, i/256, i%256) }, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var n network
			for i := range 600 {
				o := refused
				if i%4 == 0 && tc.answers {
					o = good
				}
				n.contact(time.Duration(i)*500*time.Millisecond, client, tc.dst(i), 8333, event.ProtoTCP, o)
			}
			alarms, infos := scans(n.run(), agg.Confirmed)
			if got := alarms > 0; got != tc.want || infos > 0 {
				t.Errorf("confirmed %d times, %d for information", alarms, infos)
			}
		})
	}
}

// Peers that all come late do not look like a scan for the moment that their share is
// low by chance.
func TestPeersThatAreFewForAMoment(t *testing.T) {
	var n network
	for i := range 400 {
		o := filtered
		if i < 30 && i%3 == 0 || i > 150 && i%3 == 0 {
			o = good
		}
		n.contact(time.Duration(i)*100*time.Millisecond, client, host(11+i*37%89, i*59%256, i%256, 7), uint16(1024+i*131), event.ProtoTCP, o)
	}
	told := n.run()
	if alarms, _ := scans(told, agg.Confirmed); alarms > 0 {
		for _, f := range told {
			t.Log(f.State, f.Severity, f.Statistic, f.Why)
		}
		t.Error("x")
	}
}

// A scan of one port by a user of a gateway is one, whatever the others do: few ports,
// many destinations and many answers are no sign of peers.
func TestScanThroughAGateway(t *testing.T) {
	var n network
	ports := []uint16{443, 80, 8443, 993}
	for i := range 3000 {
		o := good
		if i%25 == 0 {
			o = refused
		}
		n.contact(time.Duration(i)*20*time.Millisecond, client, host(192, i/60000, i/250, i%250), ports[i%4], event.ProtoTCP, o)
	}
	for i := range 80 {
		n.contact(10*time.Second+time.Duration(i)*500*time.Millisecond, client, host(198, 18, 0, i), 445, event.ProtoTCP, filtered)
	}
	told := n.run()
	if alarms, infos := scans(told, agg.Confirmed); alarms == 0 || infos > 0 {
		t.Errorf("confirmed %d times, %d for information", alarms, infos)
	}
}

// What answers over the other protocol is there: browsers where UDP is blocked, and a
// resolver whose TCP is.
func TestTheOtherProtocol(t *testing.T) {
	for _, tc := range []struct {
		name         string
		port         uint16
		there, fails uint8
		want         bool
	}{
		{"QUIC", 443, event.ProtoTCP, event.ProtoUDP, false},
		{"DNS", 53, event.ProtoUDP, event.ProtoTCP, false},
		{"nothing answers", 443, 0, event.ProtoUDP, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var n network
			for i := range 100 {
				at, dst := time.Duration(i)*2*time.Second, host(11+i*37%89, i*59%256, 1, 7)
				n.contact(at, client, dst, tc.port, tc.fails, filtered)
				if tc.there != 0 {
					n.contact(at+50*time.Millisecond, client, dst, tc.port, tc.there, good)
				}
			}
			if alarms, _ := scans(n.run(), agg.Confirmed); alarms > 0 != tc.want {
				t.Errorf("confirmed %d times", alarms)
			}
		})
	}
}

func classes(told []agg.Finding, class string) (n int) {
	for i := range told {
		if told[i].Class == class {
			n++
		}
	}
	return n
}

// Hosts of which a few contacts fail now and then are no outage, however few of them
// are active.
func TestOutageNotOfChance(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var n network
	for h := range 30 {
		for at := time.Duration(0); at < 2*time.Hour; at += time.Duration(r.ExpFloat64() * float64(40*time.Second)) {
			o := good
			if r.Float64() < .25 {
				o = refused
			}
			n.contact(at, host(10, 1, 0, 1+h), host(11+r.IntN(89), r.IntN(256), r.IntN(256), 7), 443, event.ProtoTCP, o)
		}
	}
	if k := classes(n.run(), "upstream_outage"); k > 0 {
		t.Errorf("told %d times", k)
	}
}

// Scanners that find something are no sources with a history: they cannot make failing
// evidence of nothing.
func TestScannersAreNoOutage(t *testing.T) {
	var n network
	for s := range 8 {
		for i := range 400 {
			o := refused
			if i%5 == 0 {
				o = good
			}
			n.contact(time.Duration(i)*100*time.Millisecond, host(203, 0, 113, s), host(198, 18, i/200, s*30+i%30), uint16(1+i), event.ProtoTCP, o)
		}
	}
	told := n.run()
	if k := classes(told, "upstream_outage"); k > 0 {
		t.Errorf("an outage is told %d times", k)
	}
	found := map[netip.Prefix]bool{}
	for i := range told {
		if told[i].Class == "scan" && told[i].State == agg.Confirmed {
			found[told[i].Source] = true
		}
	}
	if len(found) < 8 {
		t.Errorf("%d of 8 are found", len(found))
	}
}

// One service that everybody uses is no uplink.
func TestOutageNotOfOneService(t *testing.T) {
	var n network
	for i := range 300 {
		for h := range 20 {
			o := good
			if i > 150 {
				o = refused
			}
			n.contact(time.Duration(i)*time.Second+time.Duration(h)*20*time.Millisecond, host(10, 1, 0, 1+h), host(10, 5, 0, 5), 5432, event.ProtoTCP, o)
		}
	}
	if k := classes(n.run(), "upstream_outage"); k > 0 {
		t.Errorf("told %d times", k)
	}
}

// Of what comes too fast not everything is looked at: such counts say that they are not
// exact.
func TestCountsThatAreNotExact(t *testing.T) {
	for _, tc := range []struct {
		step  time.Duration
		many  int
		exact bool
	}{{10 * time.Microsecond, 80_000, false}, {time.Millisecond, 6000, true}} {
		var n network
		for i := range tc.many {
			n.contact(time.Second+time.Duration(i)*tc.step, client, host(198, 18+i/62_500, i/250%250, i%250), 23, event.ProtoTCP, filtered)
		}
		told := slices.DeleteFunc(n.run(), func(f agg.Finding) bool { return f.Class != "scan" })
		if len(told) == 0 {
			t.Fatal("nothing is told")
		}
		if last := told[len(told)-1]; last.Evidence.Estimated == tc.exact {
			t.Errorf("a contact in %v: estimated is %v", tc.step, last.Evidence.Estimated)
		}
	}
}

// What failed first and is good when it is tried again was not there yet: a scan that was
// told of it is taken back.
func TestWhatStartsLate(t *testing.T) {
	var n network
	for i := range 400 {
		at, o := time.Duration(i)*100*time.Millisecond, good
		if at < 10*time.Second {
			o = refused
		}
		n.contact(at, client, host(10, 8, 0, i%30), 8080, event.ProtoTCP, o)
	}
	told := n.run()
	if len(told) == 0 || told[0].Class != "scan" {
		t.Fatal("thirty that refuse are nothing: the test tests nothing")
	}
	if last := told[len(told)-1]; last.State != agg.Cleared || !last.Excused {
		t.Errorf("%s: %s", last.State, last.Why)
	}
}

// And so is what was silent for 3 s and then answered.
func TestWhatAnswersLate(t *testing.T) {
	var n network
	for i := range 40 {
		n.contact(time.Duration(i)*100*time.Millisecond, client, host(198, 18, 0, i), 443, event.ProtoTCP, good)
	}
	for id := range n.good {
		n.good[id] += event.Ktime(4 * time.Second)
	}
	n.contact(40*time.Second, client, host(198, 18, 1, 1), 443, event.ProtoTCP, good)
	told := n.run()
	if len(told) == 0 || told[0].Class != "scan" {
		t.Fatal("forty that are silent are nothing: the test tests nothing")
	}
	if last := told[len(told)-1]; last.State != agg.Cleared || !last.Excused {
		t.Errorf("%s: %s", last.State, last.Why)
	}
}

// traceroute tries a new port with every probe, and is told by ICMP.
func TestTraceroute(t *testing.T) {
	for first, want := range map[uint16]bool{33434: false, 40000: true} {
		var n network
		for k := range 45 {
			n.contact(time.Duration(k)*50*time.Millisecond, client, host(198, 51, 100, 7), first+uint16(k), event.ProtoUDP, filtered)
		}
		if alarms, _ := scans(n.run(), agg.Confirmed); alarms > 0 != want {
			t.Errorf("ports from %d on: confirmed %d times", first, alarms)
		}
	}
}

// An office behind a firewall that drops NTP is no network of scanners; one of strangers
// that are never answered is.
func TestNetworkOfAnOffice(t *testing.T) {
	for _, answered := range []bool{true, false} {
		var n network
		for h := range 100 {
			at, src := time.Duration(h)*2*time.Second, host(203, 0, 113, h)
			if answered {
				n.contact(at, src, host(198, 51, 100, 1), 53, event.ProtoUDP, good)
			}
			for k := range 4 {
				n.contact(at+time.Second, src, host(11+h%80, 7*k, h, 1), 123, event.ProtoUDP, filtered)
			}
		}
		if alarms, _ := scans(n.run(), agg.Confirmed); alarms > 0 == answered {
			t.Errorf("answered by others: %v, confirmed %d times", answered, alarms)
		}
	}
}

// Twenty hosts with a worm fail at everything that is new to them, and what they have
// always used still answers: no outage, and all of them are found.
func TestWormIsNoOutage(t *testing.T) {
	var n network
	for h := range 20 {
		src := host(10, 1, 0, 1+h)
		for i := range 48 { // a server of theirs
			n.contact(time.Duration(i)*5*time.Second+time.Duration(h)*29*time.Millisecond, src, host(10, 5, 0, h), 443, event.ProtoTCP, good)
		}
		for i := range 30 { // and the web
			n.contact(time.Duration(i)*8*time.Second+time.Duration(h)*31*time.Millisecond, src, host(11+h, i, h, 1), 443, event.ProtoTCP, good)
		}
		for i := range 90 {
			n.contact(2*time.Minute+time.Duration(i)*time.Second+time.Duration(h)*37*time.Millisecond, src, host(40+h, i*7%256, i, 1), 445, event.ProtoTCP, filtered)
		}
	}
	told := n.run()
	if k := classes(told, "upstream_outage"); k > 0 {
		t.Errorf("an outage is told %d times", k)
	}
	found := map[netip.Prefix]bool{}
	for i := range told {
		if told[i].Class == "scan" && told[i].State == agg.Confirmed {
			found[told[i].Source] = true
		}
	}
	if len(found) != 20 {
		t.Errorf("%d of 20 are found", len(found))
	}
}

// Many sources that fail at the one endpoint of the one host there is are its clients
// when they try again, and bots when they do not.
func TestClientsOfADeadService(t *testing.T) {
	for _, tries := range []int{3, 1} {
		var n network
		for i := range 300 {
			for k := range tries {
				n.contact(time.Duration(i)*600*time.Millisecond+time.Duration(k)*5*time.Second, host(11+i%80, i%256, 7, 9), host(203, 0, 113, 80), 443, event.ProtoTCP, filtered)
			}
		}
		if k := classes(n.run(), "distributed_scan"); k > 0 != (tries == 1) {
			t.Errorf("%d tries each: told %d times", tries, k)
		}
	}
}

// Who is silent when a port answers may be forged, and so may be who takes its connection
// back: a decoy that is up answers the SYN-ACK with an RST. Only who takes it up is where
// its packets come from.
func TestForgedSourcesStayForged(t *testing.T) {
	for _, x := range []struct {
		life   time.Duration
		status event.Status
		forged bool
	}{{60 * time.Second, event.SeenReply, true}, {10 * time.Second, event.SeenReply, true}, {10 * time.Second, event.SeenReply | event.Assured, false}} {
		life := x.life
		var n network
		for i := range 40 {
			n.contact(time.Duration(i)*100*time.Millisecond, client, host(198, 18, 0, 7), uint16(1+i), event.ProtoTCP, refused)
		}
		n.contact(5*time.Second, client, host(198, 18, 0, 7), 80, event.ProtoTCP, filtered)
		e := n.events[len(n.events)-1]
		e.Kind, e.Time, e.Cause, e.Status = event.Destroy, e.Time+event.Ktime(life), event.TimeoutGC, x.status
		e.Lifetime, e.HasLifetime = life, true
		n.events = append(n.events, e)
		for i := range 40 {
			n.contact(80*time.Second+time.Duration(i)*100*time.Millisecond, client, host(198, 18, 0, 7), uint16(100+i), event.ProtoTCP, refused)
		}
		n.contact(110*time.Second, client, host(198, 18, 0, 7), 200, event.ProtoTCP, refused)
		told := n.run()
		if last := told[len(told)-1]; last.Class != "scan" || last.Spoofable != x.forged {
			t.Errorf("gone after %v as %v: %s, spoofable is %v", life, x.status.Names(), last.Class, last.Spoofable)
		}
	}
}

// SYNs in the name of a client that has handshakes of its own, with others and with an old
// endpoint of the same host, are not shown to be the client's.
func TestForgedClientStaysForged(t *testing.T) {
	for _, x := range []struct {
		name   string
		dst    netip.Addr
		at     time.Duration
		forged bool
	}{
		{"elsewhere", host(198, 18, 0, 9), time.Second, true},
		{"there, two hours before", host(198, 18, 0, 7), time.Second - 2*time.Hour, true},
		{"there, before", host(198, 18, 0, 7), time.Second, false},
		{"there, after", host(198, 18, 0, 7), 40 * time.Second, false},
	} {
		var n network
		shake := func() { n.contact(2*time.Hour+x.at, client, x.dst, 443, event.ProtoTCP, good) }
		if x.at < 30*time.Second {
			shake()
		}
		for i := range 40 {
			n.contact(2*time.Hour+30*time.Second+time.Duration(i)*100*time.Millisecond, client, host(198, 18, 0, 7), uint16(1000+i), event.ProtoTCP, refused)
		}
		if x.at >= 30*time.Second {
			shake()
		}
		n.contact(2*time.Hour+60*time.Second, client, host(198, 18, 0, 7), 3000, event.ProtoTCP, refused)
		told := n.run()
		if last := told[len(told)-1]; last.Class != "scan" || last.Spoofable != x.forged {
			t.Errorf("a handshake %s: %s, spoofable is %v", x.name, last.Class, last.Spoofable)
		}
	}
}
