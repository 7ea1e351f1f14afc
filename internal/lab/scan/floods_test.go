package scan

import (
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
)

// flood is one run of hping3 at an endpoint of its own, 2,000 packets a second where
// the machine is fast enough.
type flood struct {
	name, cmd, class string
	target           string
	port             int
	spoofed          bool
}

var floods = []flood{
	{"SYNs at an open port", "hping3 -q -S -p 80 --rand-source -i u500 10.2.0.11", "syn_flood", "10.2.0.11", 80, true},
	{"SYNs into nowhere", "hping3 -q -S -p 80 --rand-source -i u500 10.2.5.9", "syn_flood", "10.2.5.9", 80, true},
	{"UDP", "hping3 -q --udp -p 53 --rand-source -i u500 10.2.5.10", "udp_flood", "10.2.5.10", 53, true},
}

const (
	floodFor    = 6 * time.Second
	ifFlooded   = 2 * time.Second
	ifTrickling = 1000 // packets: half a second of the flood that is asked for
	floodGrowth = 64   // MB
)

// flood runs them one after the other, and wants that the memory of who watches does
// not grow. It returns what nft counted for each target.
func (d *watcher) flood(w *town) map[string]int {
	w.t.Helper()
	before := d.memory()
	for _, f := range floods {
		must(w.t, w.run(floodFor, f.cmd))
		time.Sleep(2 * time.Second)
	}
	after := d.memory()
	sent := map[string]int{}
	for _, f := range floods {
		sent[f.target] = w.counted("others", f.target)
	}
	w.t.Logf("floods: %v packets, memory %.1f MB before, %.1f MB after", sent, before, after)
	if after-before > floodGrowth {
		w.t.Errorf("it has grown by %.1f MB", after-before)
	}
	return sent
}

// A horde is a scan that is divided among many: each tries a port of two hosts, and
// all of them together are far from a flood.
const (
	hordeSize  = 60
	hordeTries = 2 * hordeSize
	hordePort  = 445
	hordePause = 20 * time.Millisecond
	ifHorde    = 5 * time.Second
)

// horde sends one, from sources that have nothing in common, and returns how long that
// took.
func (w *town) horde() time.Duration {
	w.t.Helper()
	began := time.Now()
	s, err := w.NewSender(w.A, netlab.SendOptions{})
	must(w.t, err)
	defer s.Close()
	for i := range hordeTries {
		time.Sleep(hordePause)
		must(w.t, s.Send(netlab.Packet{Flags: netlab.SYN, Seq: 1, Tuple: event.Tuple{
			Src: source(100 + i%hordeSize), Dst: nth(silent, i), Sport: 40000, Dport: hordePort, Proto: event.ProtoTCP}}))
		must(w.t, s.Flush())
	}
	return time.Since(began)
}

// checkHorde wants it found as one, by its port. A slow machine is late with it.
func checkHorde(t *testing.T, found incident, sending time.Duration) {
	alarm, last := found.confirmed(), found.last()
	if alarm == nil {
		t.Fatalf("never confirmed: %s", last)
	}
	took, _ := alarm.took()
	late := sending - hordeTries*hordePause
	t.Logf("alarm after %v, all was sent %v late: %s", took, late, alarm.Why)
	t.Logf("in the end: %s", last)
	if took-late > ifHorde {
		t.Errorf("confirmed after %v, want %v", took, ifHorde)
	}
	e := &last.Evidence
	if last.Class != "distributed_scan" || last.Raised != 1 || e.Sources != hordeSize || e.Unanswered != hordeTries || e.Dsts != hordeTries {
		t.Errorf("want %d sources with %d destinations: %s", hordeSize, hordeTries, last.line)
	}
}

// check holds the finding about a target against what was sent. Where the machine is too
// slow for the flood, it is to be found after so many packets.
func (f flood) check(t *testing.T, found incident, sent int, p *pulse) {
	alarm, last := found.confirmed(), found.last()
	if alarm == nil {
		t.Fatalf("never confirmed: %s", last)
	}
	took, _ := alarm.took()
	still := p.still(alarm.Time.Add(-took), alarm.Time)
	t.Logf("alarm after %v, of which the machine stood still for %v: %s", took, still, alarm.Why)
	t.Logf("in the end: %s", last.line)
	if n := alarm.Evidence.Attempts; took-still > ifFlooded && n > ifTrickling {
		t.Errorf("confirmed after %v and %d packets, want %v or %d", took, n, ifFlooded, ifTrickling)
	}
	if last.Class != f.class || last.Target.Port != f.port || last.Spoofable != f.spoofed || last.Raised != 1 {
		t.Errorf("want a %s of port %d, spoofed: %t, raised once", f.class, f.port, f.spoofed)
	}
	// Its numbers are those of whole seconds in which it went on.
	if n := last.Evidence.Attempts; n > sent || float64(n) < .6*float64(sent) {
		t.Errorf("it says %d, nft %d", n, sent)
	}
	if s := last.Source + last.Prefix; f.spoofed && s != "" {
		t.Errorf("it names %s, who has sent nothing", s)
	}
}
