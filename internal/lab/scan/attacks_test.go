package scan

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab"
)

// attack is one run of a tool, from a source of its own.
type attack struct {
	name   string
	cmd    string // with SRC for the source
	how    manner
	want   counts // zero where the tool decides while it runs
	shape  string // of the finding
	within time.Duration
	long   bool // on one kernel only
	early  bool // answers come before the first failure, and are not of the finding
	decoys []netip.Addr
	limit  time.Duration // after which it is ended, where it does not end by itself
}

// nmap goes the way of the kernel's routes and does not resolve or ping first.
const nmap = "nmap -n -Pn --send-ip -e a0 -S SRC "

// gatewayMAC is the address of the gateway's interface towards the clients.
const gatewayMAC = "02:c7:00:00:00:11"

// Times to detect, from the first probe: detection.md, section 7.
const (
	ifRefused  = 500 * time.Millisecond
	ifFiltered = 3500 * time.Millisecond
	ifPolite   = 8 * time.Second   // nmap -T2
	ifSneaky   = 180 * time.Second // nmap -T1
)

// slack is what looks may come late by.
const slack = 500 * time.Millisecond

// halfOpenFor is the kernel's timeout of what was reset, with which at the latest it is
// known to have failed (nf_conntrack_tcp_timeout_close).
const halfOpenFor = 10 * time.Second

// attacks are those of which conntrack makes entries. The 21 hosts that are alive have
// ports 53 and 80 open. Who has finished a handshake comes last: what was open an hour
// ago excuses who fails there.
var attacks = []attack{
	{name: "nmap -sS -T4", cmd: nmap + "-sS -T4 --max-retries 1 -p1-200 10.2.0.2", want: counts{198, 0, 2, 0, 0, 1, 200}, shape: "vertical", within: ifRefused},
	{name: "nmap -sS -T3", cmd: nmap + "-sS -T3 -p1-100 10.2.0.2", want: counts{98, 0, 2, 0, 0, 1, 100}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -sS -T5", cmd: nmap + "-sS -T5 -p1-100 10.2.0.2", want: counts{98, 0, 2, 0, 0, 1, 100}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -sS filtered", cmd: nmap + "-sS -T4 --max-retries 1 -p1-60 10.2.5.1", want: counts{0, 60, 0, 0, 0, 1, 60}, shape: "vertical", within: ifFiltered, long: true},
	{name: "nmap -sU", cmd: nmap + "-sU -T4 --max-retries 1 -p100-129 10.2.0.2", want: counts{0, 30, 0, 0, 0, 1, 30}, shape: "vertical", within: ifFiltered, long: true},
	{name: "nmap -sA", cmd: nmap + "-sA -T4 -p1-100 10.2.0.2", how: bare, want: counts{100, 0, 0, 0, 0, 1, 100}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -sW", cmd: nmap + "-sW -T4 -p1-100 10.2.0.2", how: bare, want: counts{100, 0, 0, 0, 0, 1, 100}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -T2", cmd: nmap + "-sS -T2 -p1-20 10.2.0.2", want: counts{20, 0, 0, 0, 0, 1, 20}, shape: "vertical", within: ifPolite, long: true},
	{name: "nmap -sn", cmd: "nmap -n -sn -PE -PS443 -PA80 --send-ip -e a0 -S SRC -T4 10.2.0.0/24", how: bare, early: true, shape: "strobe", within: ifFiltered, long: true},
	{name: "nmap -D", cmd: nmap + "-sS -T4 -D 198.51.100.7,198.51.101.8,ME -p1-50 10.2.0.2", want: counts{50, 0, 0, 0, 0, 1, 50}, shape: "vertical", within: ifRefused, long: true,
		decoys: []netip.Addr{addr("198.51.100.7"), addr("198.51.101.8")}},
	{name: "nmap three ports of a network", cmd: nmap + "-sS -T4 -p80,443,22 10.2.0.0/24", want: counts{42, 705, 21, 0, 0, 256, 3}, shape: "strobe", within: ifFiltered, long: true},
	{name: "nmap many ports of few", cmd: nmap + "-sS -T4 -p20-34 10.2.0.10-14", want: counts{75, 0, 0, 0, 0, 5, 15}, shape: "strobe", within: ifRefused, long: true},
	{name: "masscan", cmd: "masscan 10.2.0.10-10.2.0.29 -p100-109 --rate 1000 --wait 2 -e a0 --router-mac " + gatewayMAC + " --source-ip SRC",
		want: counts{200, 0, 0, 0, 0, 20, 10}, shape: "strobe", within: ifRefused, long: true, limit: 8 * time.Second}, // it waits for one more packet
	{name: "zmap", cmd: "zmap -q -p80 -i a0 -G " + gatewayMAC + " -S SRC -r 1000 -c 1 -b /dev/null -o /dev/null 10.2.0.0/24",
		want: counts{0, 235, 21, 0, 0, 256, 1}, shape: "horizontal", within: ifFiltered, long: true},
	// These make no entry: only the hook for invalid packets sees them.
	{name: "nmap -sF", cmd: nmap + "-sF -T4 --max-retries 1 -p100-139 10.2.0.2", want: counts{0, 0, 0, 40, 0, 1, 40}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -sN", cmd: nmap + "-sN -T4 --max-retries 1 -p100-139 10.2.0.2", want: counts{0, 0, 0, 40, 0, 1, 40}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -sX", cmd: nmap + "-sX -T4 --max-retries 1 -p100-139 10.2.0.2", want: counts{0, 0, 0, 40, 0, 1, 40}, shape: "vertical", within: ifRefused, long: true},
	{name: "nmap -sT", cmd: nmap + "-sT -T4 -p1-100 10.2.0.29", how: connects, want: counts{98, 0, 0, 0, 2, 1, 98}, shape: "vertical", within: ifRefused, long: true},
}

// sneaky takes minutes, beside the others.
var sneaky = attack{name: "nmap -T1", cmd: nmap + "-sS -T1 -p20-29 10.2.0.2", want: counts{10, 0, 0, 0, 0, 1, 10}, shape: "vertical", within: ifSneaky, long: true}

// source is an address of the i-th attack, in a network of its own.
func source(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i + 1), 2}) }

// launch runs an attack to its end.
func (w *town) launch(a attack, src netip.Addr) error {
	return w.run(cmp.Or(a.limit, patience), strings.ReplaceAll(a.cmd, "SRC", src.String()))
}

// here says whether an attack runs on this kernel.
func (a attack) here() bool { return !a.long || lab.KernelName() == "6.12" }

// launched is an attack with its source.
type launched struct {
	attack
	src netip.Addr
}

// Every tool is found once, confirmed, soon, as what it is, and the numbers are those
// of the packets that nft saw. A flood is one alarm about its target, soon, and none
// about those who have sent nothing; and it does not grow who watches it.
func TestAttacks(t *testing.T) {
	w := newTown(t, alive, "nmap", "masscan", "zmap", "hping3")
	w.serve()
	p := newPulse()
	defer p.stop()
	d := w.detect("--invalid")
	slow := make(chan error, 1)
	var all []launched
	if sneaky.here() {
		go func() { slow <- w.launch(sneaky, source(250)) }()
		all = append(all, launched{sneaky, source(250)})
	} else {
		slow <- nil
	}
	for i, a := range attacks {
		if a.here() {
			if a.how == connects { // to an endpoint that is good then: who has failed there has to be judged before
				time.Sleep(halfOpenFor + 2*time.Second)
			}
			must(t, w.launch(a, source(i)))
			all = append(all, launched{a, source(i)})
		}
	}
	sent := map[string]int{} // packets to each target of a flood
	var took time.Duration   // for the horde to come
	if sneaky.here() {
		sent = d.flood(w)
		took = w.horde()
	}
	must(t, <-slow)
	time.Sleep(halfOpenFor + 5*time.Second)
	v, lines := w.truth(), d.stop()
	mine := map[string]bool{} // findings by id
	for _, a := range all {
		for _, src := range append([]netip.Addr{a.src}, a.decoys...) {
			t.Run(a.name, func(t *testing.T) {
				found := incidents(lines, func(f *finding) bool { return f.Source == src.String() })
				a.check(t, src, v, one(t, found, mine), p)
			})
		}
	}
	if sneaky.here() {
		for _, f := range floods {
			t.Run(f.name, func(t *testing.T) {
				found := incidents(lines, func(x *finding) bool { return x.Target.Addr == f.target && x.Class != "scan" })
				f.check(t, one(t, found, mine), sent[f.target], p)
			})
		}
		t.Run("many sources", func(t *testing.T) {
			checkHorde(t, one(t, incidents(lines, func(x *finding) bool { return x.Target.Port == hordePort }), mine), took)
		})
	}
	for i := range lines {
		if f := &lines[i]; !mine[f.ID] && f.Class != "table_filling" { // which floods do
			t.Errorf("it told of something else: %s", f)
		}
	}
}

// one wants a single incident, and notes which.
func one(t *testing.T, found []incident, mine map[string]bool) incident {
	t.Helper()
	for _, i := range found {
		mine[i.last().ID] = true
	}
	if len(found) != 1 {
		t.Fatalf("%d findings for one incident: %v", len(found), found)
	}
	return found[0]
}

// check holds the finding about a source against the truth.
func (a attack) check(t *testing.T, src netip.Addr, v truth, found incident, p *pulse) {
	truth := v.count(src, a.how)
	if a.want != (counts{}) && truth != a.want {
		t.Fatalf("the tool asked for %+v, want %+v", truth, a.want)
	}
	alarm, last := found.confirmed(), found.last()
	if alarm == nil {
		t.Fatalf("never confirmed: %s", last)
	}
	took, waited := alarm.took()
	still := p.still(alarm.Time.Add(-took), alarm.Time)
	t.Logf("alarm %v after the first probe, %v after the last, of which the machine stood still for %v: %s", took, waited, still, alarm.Why)
	t.Logf("in the end: %s", last)
	switch a.within {
	case ifRefused: // there the tool takes its time from probe to probe
		took = waited
	case ifFiltered: // and looks come late
		took = waited - slack
	}
	if took-still > a.within {
		t.Errorf("confirmed after %v, want %v", took, a.within)
	}
	if last.Class != "scan" || last.Shape != a.shape || last.State != "confirmed" || last.Raised != 1 {
		t.Errorf("%s, want a scan, %s, confirmed and raised once", last.line, a.shape)
	}
	got := last.counts()
	if a.early && got.answered < truth.answered {
		truth.answered = got.answered
	}
	if got != truth {
		t.Errorf("it says %+v, nft %+v: %s", got, truth, last.line)
	}
	if got, want := last.Evidence.Attempts, v.attempts(src, a.how)+truth.invalid; got != want {
		t.Errorf("%d attempts failed, nft %d", got, want)
	}
	if len(a.decoys) > 0 && !last.Spoofable {
		t.Errorf("nothing proves that it comes from there: %s", last.line)
	}
}
