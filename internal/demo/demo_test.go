package demo

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// theTable is the namespace of made-up events; theTruth their balance.
const theTable event.NetNS = 4026532000

// script feeds a recorder with a made-up play and tells it as show does.
type script struct {
	rec  *recorder
	tell *teller
	data *Data
	at   event.Ktime
	port uint16
}

func (s *script) event(e event.Event, wait time.Duration) {
	s.at += event.Ktime(wait)
	e.Time = s.at
	if err := s.rec.add(&e); err != nil {
		panic(err)
	}
}

func (s *script) tuple(r role, i int, proto uint8, dst string, dport uint16) event.Tuple {
	s.port++
	return event.Tuple{Src: r.addrs().At(i % r.n), Sport: 1024 + s.port, Dst: netip.MustParseAddr(dst), Dport: dport, Proto: proto}
}

func (s *script) act(name string, fn func()) {
	from := s.at.Sub(s.rec.start)
	fn()
	s.at += event.Ktime(300 * time.Millisecond)
	s.data.Acts = append(s.data.Acts, Act{name, from, s.at.Sub(s.rec.start)})
}

// made enters flows of a role; each is sent and makes an entry.
func (s *script) made(r role, n int, proto uint8, dst string, every time.Duration) {
	for i := range n {
		u := s.tuple(r, i, proto, dst, 443)
		s.data.sent(u.Src, 1)
		s.event(event.Event{Kind: event.New, Orig: u}, every)
	}
}

// play is a small version of the whole demo.
func play(out *bytes.Buffer, color, exact bool, p plan) *Data {
	tell := &teller{w: out, color: color}
	s := &script{tell: tell, data: &Data{Kernel: "6.12.0-test x86_64", Backend: "fentry", Exact: exact}, at: 5e9}
	if !exact {
		s.data.Backend = "netfilter"
	}
	s.rec = newRecorder(s.at, tell.line)
	tell.opening(s.data.Kernel)
	tell.attached(s.data)
	s.act("ordinary", func() {
		tell.ordinaryBegins(ordinaryFor)
		s.rec.show(3, func(*event.Event) bool { return true })
		s.made(clients, 80, event.ProtoUDP, "10.0.2.2", 50*time.Millisecond)
		s.data.Unfinished = 1
		s.data.Clients = s.rec.of(clients)
		tell.ordinary(s.data)
	})
	s.act("burst", func() {
		tell.burstBegins()
		for range 5 {
			s.at += event.Ktime(198 * time.Millisecond)
			s.made(burster, 200, event.ProtoUDP, "10.9.0.1", 10*time.Microsecond)
		}
		s.data.Burst = s.rec.of(burster)
		tell.burst(s.data)
	})
	s.act("scan", func() { s.scan(exact) })
	s.act("full table", func() { s.full(p, exact) })
	s.data.finish(s.rec, s.doc(exact), theTable, event.Clock{Wall: time.Date(2026, 11, 22, 19, 38, 0, 0, time.UTC)})
	tell.ledger(s.data)
	tell.next("ctsight-demo.html")
	return s.data
}

func (s *script) scan(exact bool) {
	s.tell.scanBegins(40)
	s.rec.show(2, func(*event.Event) bool { return true })
	for i := range 40 {
		u := s.tuple(scanner, 0, event.ProtoTCP, "10.0.2.2", uint16(i+1))
		s.data.sent(u.Src, 1)
		s.event(event.Event{Kind: event.New, Orig: u}, time.Millisecond)
		if i < 30 && exact {
			s.event(event.Event{Kind: event.Destroy, Cause: event.TCPRstUnreplied, Orig: u, HasLifetime: true, Lifetime: time.Duration(40+i) * time.Microsecond}, 50*time.Microsecond)
		}
	}
	s.data.Open, s.data.Scan = []uint16{22, 80}, s.rec.of(scanner)
	s.tell.scan(s.data)
}

func (s *script) full(p plan, exact bool) {
	s.data.Limit, s.data.Was, s.data.Skipped = p.Limit, p.Was, p.Skip
	s.tell.fullBegins(p)
	if p.Skip != "" {
		return
	}
	s.made(longLived, p.Assured, event.ProtoTCP, "10.9.0.1", 20*time.Microsecond)
	s.made(sensor, p.Pending, event.ProtoUDP, "10.9.0.2", 20*time.Microsecond)
	s.data.FullAt = s.at.Sub(s.rec.start)
	s.tell.filled(p)
	s.rec.show(3, func(*event.Event) bool { return true })
	for i := range 400 {
		r := flooder
		if i%10 == 9 {
			r = customers
		}
		u := s.tuple(r, i, event.ProtoUDP, "10.9.0.4", 53)
		s.data.sent(u.Src, 1)
		switch {
		case !exact && i%4 == 3:
			continue
		case i%4 == 3 || i%4 == 0 && i%3 == 0:
			s.event(event.Event{Kind: event.Drop, Reason: event.TableFull, Orig: u}, time.Millisecond)
			continue
		case exact:
			v := s.tuple(sensor, 0, event.ProtoUDP, "10.9.0.2", 162)
			s.event(event.Event{Kind: event.Destroy, Cause: event.EarlyDrop, Orig: v, By: u}, 0)
		}
		s.event(event.Event{Kind: event.New, Orig: u}, 4*time.Millisecond)
	}
	s.data.Losers = append(s.rec.of(flooder), s.rec.of(customers)...)
	s.data.Evictions, s.data.EvictedAssured = s.rec.evictions()
	s.data.EvictedGC = 2
	s.data.KernelDrop, s.data.KernelEarlyDrop = 134, 266
	s.tell.full(s.data)
}

// doc is a ledger with a row of another namespace and of what was not asked for.
func (s *script) doc(exact bool) *agg.Doc {
	n := func(i int64) *int64 { return &i }
	d := &agg.Doc{Loss: agg.Loss{Seen: 3000, Delivered: 3000}, Balance: []agg.BalanceRow{
		{NetNS: 1, Counter: agg.CounterDrop, Traced: n(1), Kernel: n(2), Difference: n(-1)},
		{NetNS: theTable, Counter: agg.CounterDrop, Traced: n(134), Kernel: n(134), Difference: n(0)},
		{NetNS: theTable, Counter: agg.CounterEarlyDrop, Traced: n(266), Kernel: n(266), Difference: n(0)},
		{NetNS: theTable, Counter: agg.CounterChainTooLong, Traced: n(0)},
		{NetNS: theTable, Counter: agg.CounterInvalid, Kernel: n(7)},
		{NetNS: theTable, Counter: agg.CounterEntries, Traced: n(999), Kernel: n(999), Difference: n(0)},
	}}
	if !exact {
		for i := range d.Balance[:3] {
			d.Balance[i].Traced, d.Balance[i].Difference = nil, nil
		}
		d.Balance[1].Kernel = n(100) // of the script's 134 losses, those of which no event comes
	}
	return d
}

var fillsIt = plan{Limit: 1000, Was: 65536, Assured: 600, Pending: 400}

func TestStory(t *testing.T) {
	for _, tt := range []struct {
		name         string
		color, exact bool
		plan         plan
	}{
		{"story", false, true, fillsIt},
		{"story.color", true, true, fillsIt},
		{"story.netfilter", false, false, fillsIt},
		{"story.skipped", false, true, newPlan(1<<20, 65536, 0, 0)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			play(&out, tt.color, tt.exact, tt.plan)
			golden(t, tt.name+".txt", out.Bytes())
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(line) - 1; n > 80 && !tt.color {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

func TestPage(t *testing.T) {
	for name, p := range map[string]plan{"page": fillsIt, "page.skipped": newPlan(0, 65536, 0, 0)} {
		var out, again bytes.Buffer
		d := play(&bytes.Buffer{}, false, true, p)
		if err := d.WritePage(&out); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".html", out.Bytes())
		if err := play(&bytes.Buffer{}, false, true, p).WritePage(&again); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
			t.Errorf("%s: equal data give different pages (%v)", name, err)
		}
		for _, outside := range []string{"http:", "https:", "<script", "src=", "url("} {
			if strings.Contains(out.String(), outside) {
				t.Errorf("%s: contains %s", name, outside)
			}
		}
	}
}

// Empty data must not make a page or a story impossible.
func TestPageOfNothing(t *testing.T) {
	var out bytes.Buffer
	if err := (&Data{}).WritePage(&out); err != nil || out.Len() == 0 {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	if s := out.String(); strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
		t.Error("a drawing has a coordinate that is no number")
	}
}

func TestHostileStrings(t *testing.T) {
	const hostile = "</style><script>alert(1)</script>\x1b[2J\u202e\" onload=\"x&amp;"
	var text, page bytes.Buffer
	d := play(&bytes.Buffer{}, false, true, fillsIt)
	d.Kernel, d.Backend, d.Acts[0].Name, d.Skipped = hostile, hostile, hostile, hostile
	tell := &teller{w: &text}
	tell.opening(hostile)
	tell.next(hostile)
	if err := d.WritePage(&page); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "</style><", "\x1b", "\u202e", `" onload="`} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	if strings.ContainsAny(text.String(), "\x1b\u202e") {
		t.Errorf("the story contains a control: %q", text.String())
	}
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name                string
		limit, buckets, ask int
		free                uint64
		want                plan
	}{
		{"lab: limit set", 65536, 65536, 1000, 1 << 30, plan{Limit: 1000, Was: 65536, Assured: 600, Pending: 400}},
		{"small table of buckets", 65536, 1024, 1000, 1 << 30, plan{Limit: 1000, Was: 65536, Assured: 950, Pending: 50}},
		{"a host", 262144, 262144, 0, 8 << 30, plan{Limit: 262144, Was: 262144, Assured: 253952, Pending: 8192}},
		{"memory not known", 262144, 262144, 0, 0, plan{Limit: 262144, Was: 262144, Assured: 253952, Pending: 8192}},
		{"the limit there is", 1000, 65536, 1000, 0, plan{Limit: 1000, Was: 1000, Assured: 600, Pending: 400}},
	} {
		if got := newPlan(tt.limit, tt.buckets, tt.ask, tt.free); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	for name, p := range map[string]plan{
		"too large": newPlan(1<<20, 262144, 0, 0), "none": newPlan(0, 262144, 0, 0), "tiny": newPlan(8, 262144, 0, 0),
		"no memory": newPlan(262144, 262144, 0, 100<<20),
	} {
		if p.Skip == "" || p.Set() {
			t.Errorf("%s: %+v, want a reason to skip and no change of the limit", name, p)
		}
	}
}

func TestPeak(t *testing.T) {
	ms := func(times ...int) (out []event.Ktime) {
		for _, m := range times {
			out = append(out, event.Ktime(m)*1e6)
		}
		return out
	}
	for _, tt := range []struct {
		times []event.Ktime
		want  int
	}{
		{nil, 0}, {ms(5), 1}, {ms(0, 10), 1}, {ms(0, 9), 2}, {ms(0, 5, 12, 14, 15, 30), 3}, {ms(30, 0, 1, 2), 3},
	} {
		if got := peak(tt.times, peakWindow); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.times, got, tt.want)
		}
	}
}

func TestRoles(t *testing.T) {
	for a, want := range map[string]string{"10.1.0.1": "clients", "10.1.0.20": "clients", "10.1.0.21": "", "10.0.255.255": "",
		"10.66.0.8": "flood", "2001:db8::1": "", "10.0.1.2": ""} {
		if got := roleOf(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %q, want %q", a, got, want)
		}
	}
	if got := who(netip.Addr{}); got != "?" {
		t.Errorf("no address: %q", got)
	}
}

// A difference anywhere must not be called accounted for.
func TestVerdict(t *testing.T) {
	d := play(&bytes.Buffer{}, false, true, fillsIt)
	if d.Residual() != 0 || !strings.HasPrefix(d.verdict(), "Every packet") {
		t.Fatalf("residual %d: %s", d.Residual(), d.verdict())
	}
	d.Truth[0].New--
	minus := int64(-2)
	d.Balance[0].Difference = &minus
	if d.Residual() != 3 || !strings.Contains(d.verdict(), "add up to 3") {
		t.Errorf("residual %d: %s", d.Residual(), d.verdict())
	}
}
