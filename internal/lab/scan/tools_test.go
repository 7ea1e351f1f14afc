package scan

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
)

// attack is one run of a tool, from a source of its own.
type attack struct {
	name string
	// cmd with SRC for the source.
	cmd    string
	want   counts
	loose  bool   // ACKs out of the blue
	shape  string // of the finding
	long   bool   // on one kernel only
	decoys []netip.Addr
	limit  time.Duration // after which it is ended, where it does not end
}

// nmap goes the way of the kernel's routes and does not resolve or ping first.
const nmap = "nmap -n -Pn --send-ip -e a0 -S SRC "

// attacks are those of which conntrack makes entries. The 21 hosts that are alive have
// ports 53 and 80 open.
var attacks = []attack{
	{name: "nmap -sS -T4", cmd: nmap + "-sS -T4 --max-retries 1 -p1-200 10.2.0.2", want: counts{198, 0, 2, 1, 198}, shape: "vertical"},
	{name: "nmap -sS -T3", cmd: nmap + "-sS -T3 -p1-100 10.2.0.2", want: counts{98, 0, 2, 1, 98}, shape: "vertical", long: true},
	{name: "nmap -sS -T5", cmd: nmap + "-sS -T5 -p1-100 10.2.0.2", want: counts{98, 0, 2, 1, 98}, shape: "vertical", long: true},
	{name: "nmap -sS filtered", cmd: nmap + "-sS -T4 --max-retries 1 -p1-60 10.2.5.1", want: counts{0, 60, 0, 1, 60}, shape: "vertical", long: true},
	{name: "nmap -sT", cmd: nmap + "-sT -T4 -p1-100 10.2.0.2", want: counts{98, 0, 2, 1, 98}, shape: "vertical", long: true},
	{name: "nmap -sU", cmd: nmap + "-sU -T4 --max-retries 1 -p100-129 10.2.0.2", want: counts{0, 30, 0, 1, 30}, shape: "vertical", long: true},
	{name: "nmap -sA", cmd: nmap + "-sA -T4 -p1-100 10.2.0.2", want: counts{100, 0, 0, 1, 100}, loose: true, shape: "vertical", long: true},
	{name: "nmap -sW", cmd: nmap + "-sW -T4 -p1-100 10.2.0.2", want: counts{100, 0, 0, 1, 100}, loose: true, shape: "vertical", long: true},
	{name: "nmap -T2", cmd: nmap + "-sS -T2 -p1-20 10.2.0.2", want: counts{20, 0, 0, 1, 20}, shape: "vertical", long: true},
	{name: "nmap -D", cmd: nmap + "-sS -T4 -D 198.51.100.7,198.51.101.8,ME -p1-50 10.2.0.2", want: counts{50, 0, 0, 1, 50}, shape: "vertical", long: true,
		decoys: []netip.Addr{addr("198.51.100.7"), addr("198.51.101.8")}},
	{name: "nmap block", cmd: nmap + "-sS -T4 -p80,443,22 10.2.0.0/24", want: counts{42, 705, 21, 256, 3}, shape: "horizontal", long: true},
	{name: "nmap strobe", cmd: nmap + "-sS -T4 -p20-34 10.2.0.10-14", want: counts{75, 0, 0, 5, 15}, shape: "strobe", long: true},
	{name: "masscan", cmd: "masscan 10.2.0.0/24 -p80 --rate 1000 --wait 2 -e a0 --router-mac " + gatewayMAC + " --source-ip SRC", want: counts{0, 235, 21, 235, 1}, shape: "horizontal", long: true,
		limit: 10 * time.Second}, // it waits for a last packet
	{name: "zmap", cmd: "zmap -q -p80 -i a0 -G " + gatewayMAC + " -S SRC -r 1000 -c 1 -b /dev/null -o /dev/null 10.2.0.0/24", want: counts{0, 235, 21, 235, 1}, shape: "horizontal", long: true},
}

// gatewayMAC is the address of the gateway's interface towards the clients.
const gatewayMAC = "02:c7:00:00:00:11"

// sourceOf is an address of the i-th attack, in a network of its own.
func sourceOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i + 1), 2}) }

func (a attack) command(src netip.Addr) string { return strings.ReplaceAll(a.cmd, "SRC", src.String()) }

// here says whether an attack runs on this kernel.
func (a attack) here() bool { return !a.long || lab.KernelName() == "6.12" }

// Each tool makes exactly the entries that nft saw the packets of, and asks for what its
// arguments say.
func TestTools(t *testing.T) {
	w := newTown(t, "nmap", "masscan", "zmap")
	for i, a := range attacks {
		if !a.here() {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			w.t = t
			watch := trace.Start(t, w.R)
			out := w.run(cmp.Or(a.limit, patience), a.command(sourceOf(i)))
			v := w.truth()
			for _, src := range append([]netip.Addr{sourceOf(i)}, a.decoys...) {
				if got := count(v.of(src), a.loose); got != a.want {
					t.Errorf("%s asked for %+v, want %+v; the tool said\n%s", src, got, a.want, out)
				}
			}
			watch.Check()
			made := map[event.Tuple]bool{}
			for _, e := range watch.In(w.R).Of(trace.ByKind(event.New)) {
				made[e.Orig] = true
			}
			if err := same(made, v.tuples); err != nil {
				t.Error(err)
			}
		})
	}
}

// same compares the tuples of TCP and UDP.
func same(made, seen map[event.Tuple]bool) error {
	for tu := range made {
		if (tu.Proto == event.ProtoTCP || tu.Proto == event.ProtoUDP) && !seen[tu] {
			return fmt.Errorf("an entry for %v, of which nft saw no packet", tu)
		}
	}
	for tu := range seen {
		if !made[tu] {
			return fmt.Errorf("no entry for %v", tu)
		}
	}
	return nil
}
