package synth

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// Scenario is a capture that can be made.
type Scenario struct {
	Name string
	Want string // the class that is to be found, "" where nothing may be
	// Probes is how many first contacts the test needs in the mean: H/((2q-1)W) with
	// the failing share q, and at least ten failures; 0 where that is not the formula.
	Probes float64
	// Step is the time between two of them.
	Step time.Duration
	make func(*world)
}

// Make makes it; the same every time.
func (s *Scenario) Make() capture.Capture {
	seed := uint64(14695981039346656037)
	for _, c := range []byte(s.Name) {
		seed = (seed ^ uint64(c)) * 1099511628211
	}
	w := newWorld(seed)
	s.make(w)
	return w.capture(s.Name)
}

const scanners = 4

// target gives the nth probe of a scan.
type target func(w *world, n int) to

func horizontal(_ *world, n int) to { return tcp(addr("198.18.0.0/16", n), 23) }
func vertical(_ *world, n int) to   { return tcp(addr("198.18.0.7/32", 0), uint16(1+n)) }
func strobe(_ *world, n int) to {
	return tcp(addr("198.18.0.0/16", n/6), []uint16{21, 22, 23, 80, 443, 3389}[n%6])
}
func block(w *world, _ int) to {
	return tcp(addr("198.18.0.0/16", w.IntN(4096)), uint16(1+w.IntN(1024)))
}
func udpPorts(_ *world, n int) to { return udp(addr("198.18.0.7/32", 0), uint16(1+n)) }
func udpHosts(_ *world, n int) to { return udp(addr("198.18.0.0/16", n), 161) }
func pings(_ *world, n int) to {
	return to{addr("198.18.0.0/16", n), 8 << 8, event.ProtoICMP}
}

// ask is a scan: probes at a pace, of which a share fails in a way.
type ask struct {
	shape string
	next  target
	fails outcome
	share float64
	step  time.Duration
	n     int
}

func (a *ask) run(w *world) {
	fate := map[to]outcome{}
	for s := range scanners {
		src := w.who(addr("203.0.113.0/24", 10+s), "scanner-"+a.shape, capture.Scanner)
		at := time.Duration(s) * 700 * time.Millisecond
		for n := range a.n {
			e := a.next(w, n+5000*s)
			o, known := fate[e]
			if !known { // the same for whoever asks
				if o = a.fails; !w.chance(a.share) {
					o = good
				}
				fate[e] = o
			}
			w.contact(at, src, e, o)
			at += a.step
		}
	}
	w.office(time.Duration(a.n)*a.step, 20, .05)
}

// needed is the delay of detection.md in first contacts.
func needed(q float64) float64 {
	h, step := math.Log(.99/1e-6), math.Log(4)
	return max(10/q, h/((2*q-1)*step))
}

func (a *ask) scenario() Scenario {
	how := map[outcome]string{refused: "refused", filtered: "filtered", half: "half open"}[a.fails]
	s := Scenario{Want: "scan", Step: a.step, make: a.run, Probes: needed(a.share),
		Name: fmt.Sprintf("%s, %.0f %% %s, %s", a.shape, 100*a.share, how, pace(a.step))}
	switch {
	case a.fails == half: // counts half
		s.Probes *= 2
	case a.shape == "strobe": // a test of all of a source needs five destinations; six ports each come before
		s.Probes = 25
	}
	return s
}

func pace(step time.Duration) string {
	if step >= time.Second {
		return "1 per " + step.String()
	}
	return fmt.Sprintf("%.0f/s", float64(time.Second)/float64(step))
}

// Scans are what must be found.
func Scans() (out []Scenario) {
	paces := []struct {
		step time.Duration
		n    int
	}{{5 * time.Minute, 200}, {15 * time.Second, 200}, {400 * time.Millisecond, 300}, {10 * time.Millisecond, 1000}, {100 * time.Microsecond, 5000}}
	for _, p := range paces {
		for _, o := range []outcome{refused, filtered} {
			for _, sh := range []struct {
				name string
				next target
			}{{"horizontal", horizontal}, {"vertical", vertical}, {"block", block}, {"strobe", strobe}} {
				a := ask{sh.name, sh.next, o, 1, p.step, p.n}
				out = append(out, a.scenario())
			}
		}
	}
	for _, q := range []float64{.9, .8, .7, .6} {
		for _, a := range []ask{{"horizontal", horizontal, refused, q, 100 * time.Millisecond, 3000}, {"horizontal", horizontal, filtered, q, 100 * time.Millisecond, 3000},
			{"vertical", vertical, refused, q, 100 * time.Millisecond, 3000}} {
			out = append(out, a.scenario())
		}
	}
	for _, a := range []ask{
		{"horizontal", horizontal, filtered, 1, time.Hour, 40},
		{"vertical", vertical, refused, 1, 3 * time.Hour, 20},
		{"horizontal", horizontal, half, 1, 100 * time.Millisecond, 400},
		{"horizontal", horizontal, half, 1, 15 * time.Second, 200},
		{"udp-vertical", udpPorts, filtered, 1, 100 * time.Millisecond, 300},
		{"udp-horizontal", udpHosts, filtered, 1, 100 * time.Millisecond, 300},
		{"icmp-sweep", pings, filtered, 1, 100 * time.Millisecond, 256},
	} {
		out = append(out, a.scenario())
	}
	return append(out, special()...)
}

// special are scans that hide.
func special() []Scenario {
	return []Scenario{
		{Name: "IPv6 scanner with a new address of its /64 for every probe", Want: "scan", make: rotating},
		{Name: "decoys: one scanner among five forged ones", Want: "scan", Step: 10 * time.Millisecond, Probes: 10, make: decoys},
		{Name: "distributed: 300 sources from everywhere, three endpoints of one port each, in 60 s", Want: "distributed_scan",
			make: func(w *world) { w.distributed(func(int) netip.Addr { return w.anywhere() }) }},
		{Name: "distributed: 300 sources of one /16, three endpoints of one port each, in 60 s", Want: "distributed_scan",
			make: func(w *world) { w.distributed(func(n int) netip.Addr { return addr("203.0.0.0/16", 210*n) }) }},
		{Name: "scan of 445 by one user of a NAT gateway, 200 users beside it", Want: "scan", Step: time.Second, Probes: 10, make: behindNAT},
		{Name: "scan of 22 by a server with ten answered contacts a second on 443", Want: "scan", Step: time.Second, Probes: 10, make: busyScanner},
		{Name: "scan of 443 by a host that has had 5,000 answers there", Want: "scan", Step: 100 * time.Millisecond, Probes: 10, make: hiddenByRole},
		{Name: "scan of 443 by a host with 20 answers a minute there", Want: "scan", Step: 10 * time.Millisecond, Probes: 10, make: browsingScanner},
		{Name: "worm at its beginning: 20 hosts of ours scan 445 all over the Internet", Want: "scan", Step: time.Second, Probes: 10, make: worm},
		{Name: "scan of 8080 that retries every probe three times", Want: "scan", Step: 100 * time.Millisecond, Probes: 10, make: retrying},
	}
}

func rotating(w *world) {
	w.net(netip.MustParsePrefix("2001:db8:bad:1::/64"), "scanner-horizontal", capture.Scanner)
	for n := range 400 {
		w.contact(time.Duration(n)*500*time.Millisecond, addr("2001:db8:bad:1::/64", 4096+w.IntN(1<<30)), tcp(addr("2001:db8:5::/64", n), 443), filtered)
	}
	w.office(4*time.Minute, 20, .05)
}

func decoys(w *world) {
	for n := range 200 {
		for s := range 6 {
			class, role := "decoy", capture.Below
			if s == 3 {
				class, role = "scanner-vertical", capture.Scanner
			}
			src, o := w.who(addr("203.0.113.0/24", 10+s), class, role), refused
			if port := n + 1; port == 22 || port == 80 { // open: a decoy gets the SYN-ACK and is silent
				if o = accepted; s == 3 {
					o = half
				}
			}
			w.contact(time.Duration(n)*10*time.Millisecond+time.Duration(s)*50*time.Microsecond, src, vertical(w, n), o)
		}
	}
	w.office(time.Minute, 20, .05)
}

func (w *world) distributed(member func(int) netip.Addr) {
	for s := range 300 {
		src := w.who(member(s), "member", capture.Below)
		for k := range 3 {
			w.contact(time.Duration(w.IntN(60_000))*time.Millisecond, src, tcp(addr("198.18.0.0/16", 3*s+k), 2323), filtered)
		}
	}
	w.office(2*time.Minute, 20, .05)
}

func behindNAT(w *world) {
	src := w.who(addr("10.9.0.1/32", 0), "scanner-horizontal", capture.Scanner)
	w.users(src, 10*time.Minute, 20*time.Millisecond, .05)
	w.since(src, time.Minute)
	for n := range 120 {
		w.contact(time.Minute+time.Duration(n)*time.Second, src, tcp(addr("198.18.0.0/16", n), 445), filtered)
	}
}

func busyScanner(w *world) {
	src := w.who(addr("10.9.0.2/32", 0), "scanner-horizontal", capture.Scanner)
	for n := range 3000 {
		w.contact(time.Duration(n)*100*time.Millisecond, src, tcp(addr("198.51.0.0/16", n), 443), good)
	}
	w.since(src, time.Minute)
	for n := range 120 {
		w.contact(time.Minute+time.Duration(n)*time.Second, src, tcp(addr("198.18.0.0/16", n), 22), refused)
	}
}

func retrying(w *world) {
	for s := range scanners {
		src := w.who(addr("203.0.113.0/24", 10+s), "scanner-horizontal", capture.Scanner)
		for n := range 200 {
			for k := range 4 {
				w.contact(time.Duration(n)*100*time.Millisecond+time.Duration(k)*2*time.Second, src, tcp(addr("198.18.0.0/16", n), 8080), refused)
			}
		}
	}
}

func hiddenByRole(w *world) {
	src := w.who(addr("10.9.0.3/32", 0), "scanner-horizontal", capture.Scanner)
	for n := range 5000 {
		w.contact(time.Duration(n)*50*time.Millisecond, src, tcp(w.anywhere(), 443), good)
	}
	w.since(src, 5*time.Minute)
	for n := range 2000 {
		w.contact(5*time.Minute+time.Duration(n)*100*time.Millisecond, src, tcp(addr("198.18.0.0/16", n), 443), refused)
	}
}

func browsingScanner(w *world) {
	src := w.who(addr("10.9.0.4/32", 0), "scanner-horizontal", capture.Scanner)
	for n := range 400 {
		w.contact(time.Duration(n)*3*time.Second, src, tcp(w.anywhere(), 443), good)
	}
	w.since(src, 10*time.Minute)
	for n := range 2000 {
		w.contact(10*time.Minute+time.Duration(n)*10*time.Millisecond, src, tcp(addr("198.18.0.0/16", n), 443), refused)
	}
}
