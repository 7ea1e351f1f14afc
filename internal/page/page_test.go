package page

import (
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/net/html"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The document of a night, of which 100 seconds are enough, byte for byte but for the
// names of its files.
func TestGolden(t *testing.T) {
	s := gateway()
	s.History = s.History[500:]
	got := write(t, s)
	for _, f := range Files() {
		if n := strings.Count(got, relative(f.Path)); n != 1 {
			t.Errorf("%d times %s", n, f.Path)
		}
		got = strings.Replace(got, relative(f.Path), path.Ext(f.Path), 1)
	}
	file := filepath.Join("testdata", "gateway.html")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: look at it, then go test ./internal/page -update", file)
	}
}

// wants fails for each text that is not there.
func wants(t *testing.T, doc string, texts ...string) {
	t.Helper()
	seen := markup.Strip([]byte(doc))
	for _, x := range texts {
		if !strings.Contains(seen, x) {
			t.Errorf("does not say %q", x)
		}
	}
}

func TestStates(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		got := write(t, &agg.Status{Start: now, At: now, Waiting: true})
		wants(t, got, "Nothing is traced now", "modprobe nf_conntrack", "api/v1/top")
		if strings.Contains(got, "backend") || strings.Contains(got, "<section") {
			t.Error("tells of what is not known")
		}
	})
	t.Run("the first second", func(t *testing.T) {
		s := &agg.Status{Start: now.Add(-time.Second), At: now, Backend: "fentry", Tables: []agg.TableState{{NetNS: 1, Max: 100}}}
		wants(t, write(t, s), "nothing is known of it yet", "1 is 0.0 % full: 0 of 100 entries", "When it will be full is not known yet", "Conntrack lost no packet since the start")
	})
	t.Run("temporary changes", func(t *testing.T) {
		s := &agg.Status{Start: now, At: now, Waiting: true, Reliefs: []agg.Relief{
			{State: "left_alone", Sysctl: "nf_conntrack_buckets", NetNS: gw, Notes: []agg.ReliefNote{{Text: "first"}, {Text: "somebody else has written 393216"}}},
			{State: "applied", Open: true, Overdue: true, Sysctl: "nf_conntrack_max", NetNS: gw, Found: 262144, Set: 524288, Present: new(uint64(524288)), Reason: "INC-42", Who: "alice"},
			{State: "applied", Open: true, Sysctl: "nf_conntrack_udp_timeout", NetNS: web0, Found: 30, Set: 10, Expires: now},
		}}
		got := write(t, s)
		wants(t, got, "2 changes of sysctls are open, 1 overdue", "1 was left alone within a day", "somebody else has written 393216", "INC-42", "default/web-0", "11-23 03:14:07")
		if strings.Index(got, "nf_conntrack_buckets") < strings.Index(got, "nf_conntrack_udp_timeout") {
			t.Error("what is closed comes first")
		}
	})
	t.Run("flight recorder", func(t *testing.T) {
		s := gateway()
		got := write(t, s)
		wants(t, got, "It reaches back to 2026-11-22 03:34:07 UTC (23h40m), with 766.2 MiB in 284 files", "ctsight report --from /var/lib/ctsight/flight reads it", "20261122T221407Z-scan-0", "36.0 MiB",
			"Recorded: ctsight report --from /var/lib/ctsight/flight/kept/20261123T031007Z-table_filling-1")
		if strings.Index(got, "table_filling-1</td>") > strings.Index(got, "scan-0</td>") {
			t.Error("the newest does not come first")
		}
		f := *s.Flight
		f.Err, f.Lost, f.Omitted, f.Kept = "write x: no space left on device", 1000, 3, slices.Repeat(f.Kept[1:], 21)
		s.Flight = &f
		got = write(t, s)
		wants(t, got, "It cannot record or keep what it should now: write x: no space left on device.", "1,000 of 81,205,000 events were not recorded", "Around 3 findings or thresholds nothing was kept", "21 are kept, of which the newest 20 stand here")
		if n := strings.Count(got, "table_filling-1</td>"); n != 20 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("three seconds", func(t *testing.T) {
		s := gateway()
		s.History = s.History[597:]
		wants(t, write(t, s), "in 3 seconds")
	})
	t.Run("best effort", func(t *testing.T) {
		s := gateway()
		s.Backend, s.BestEffort = "netfilter", true
		got := write(t, s)
		wants(t, got, "Best effort: backend netfilter", "Best effort: this backend does not tell all ends", "Best effort: entries whose end was not told")
		if strings.Contains(markup.Strip([]byte(got)), "203.0.113.66 holds") {
			t.Error("tells who holds how much")
		}
		if !strings.Contains(got, "<span>live entries</span> <b>78,673</b>") { // 54,753 + 23,800 + 120: what the kernel counts
			t.Error("tells what it does not know")
		}
	})
	t.Run("no limit", func(t *testing.T) {
		s := gateway()
		s.Tables = []agg.TableState{{NetNS: gw, Name: "gw", Entries: 54753, Known: 54753, Seeded: true}}
		got := write(t, s)
		wants(t, got, "gw holds 54,753 entries and has no limit")
		if strings.Contains(got, "NaN") || strings.Contains(got, "Inf") {
			t.Error("divides by the limit")
		}
	})
	t.Run("a mistake of ours", func(t *testing.T) {
		s := gateway()
		s.Loss.Seen += 3
		s.Difference[0].Difference = -2
		wants(t, write(t, s), "+3 records are not explained", "1 of the kernel's counters differ", "−2")
	})
}

// Of many namespaces the fullest have a gauge and the rest is summed.
func TestManyTables(t *testing.T) {
	s := gateway()
	s.Tables, s.Pools = nil, nil
	for i := range 31 {
		s.Tables = append(s.Tables, agg.TableState{NetNS: event.NetNS(100 + i), Entries: uint64(i), Max: 100})
	}
	got := write(t, s)
	if n := strings.Count(got, `class="pct"`); n != gauges {
		t.Errorf("%d gauges", n)
	}
	// 0 to 22: 253 entries.
	wants(t, got, "130 is 30.0 % full", "and 23 tables", "253 entries of 2,300, the fullest 22.0 %")
	for i := range 5000 {
		s.Tables = append(s.Tables, agg.TableState{NetNS: event.NetNS(1000 + i), Err: "gone"})
	}
	got = write(t, s)
	wants(t, got, "and 5,023 tables", "5,000 not known")
	if len(got) > 150_000 {
		t.Errorf("%d bytes", len(got))
	}
}

// A table that is less full but fills faster is not overlooked.
func TestSooner(t *testing.T) {
	s := gateway()
	soon := 30.0
	s.Tables[2].Forecast, s.Tables[2].TimeToFull = true, &soon
	wants(t, write(t, s), "default/web-0 (72.6 %) is full sooner: in 30s")
}

const attack = "\x1b[2J</title></svg><script>alert(1)</script>\u202e\"' onload=x\x00"

// hostile has what an attacker may choose, everywhere.
func hostile() *agg.Status {
	s := gateway()
	s.Backend = attack
	long := strings.Repeat("<b>", 1400)
	s.Tables[0].Name, s.Tables[1].Name, s.Tables[3].Err = long, attack, attack
	s.Loss.ByStage[0].Stage = attack
	s.Hooks[1].Symbol, s.Hooks[1].Lost = attack, attack
	s.Pools[0].Src = netip.MustParseAddr("fe80::1").WithZone(attack)
	s.Holders[2].Src, s.Losers[2].Src = s.Pools[0].Src, s.Pools[0].Src
	s.History[599].Sources[0].Src = s.Pools[0].Src
	s.Examples[0].Dst = netip.Addr{}
	for i := range s.Findings {
		f := &s.Findings[i]
		f.ID, f.Class, f.Shape, f.State, f.Severity, f.Why = attack, attack, attack, attack, attack, attack+long
		f.WhyNotBenign, f.Suppress = attack+long, attack+long
	}
	s.Reliefs = []agg.Relief{{ID: attack, State: attack, Open: true, Sysctl: attack, NetNSName: attack, Reason: attack + long, Who: attack, Notes: []agg.ReliefNote{{Text: attack + long}}}}
	s.Findings[0].Recording = attack + long
	s.Flight = &agg.Flight{Dir: attack + long, Err: attack + long, Kept: []agg.Recording{{Name: attack, Dir: attack, Why: attack + long}, {Name: attack + long}}}
	s.Drops = append(s.Drops, agg.ReasonCount{Reason: 250, Count: 1 << 62})
	s.History[300].New, s.History[300].Peak = 1<<63, 1e300
	return s
}

// What is from outside stays text: the document has our elements only, no script but
// ours, no inline style or handler, nothing that turns or hides text.
func TestHostile(t *testing.T) {
	elements := strings.Fields("html head meta title link script noscript body a header h1 p button main ul li span b small section h2 figure figcaption svg desc " +
		"path rect text div details summary table thead tbody tr th td code kbd footer nav br")
	got := write(t, hostile())
	for _, r := range got {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q is shown", r)
		}
	}
	z := html.NewTokenizer(strings.NewReader(got))
	scripts := 0
	for z.Next() != html.ErrorToken {
		tok := z.Token()
		if tok.Type != html.StartTagToken && tok.Type != html.SelfClosingTagToken {
			continue
		}
		if !slices.Contains(elements, tok.Data) {
			t.Errorf("element %s", tok.Data)
		}
		if tok.Data == "script" {
			scripts++
		}
		for _, a := range tok.Attr {
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("%s has %s=%q", tok.Data, a.Key, a.Val)
			}
		}
	}
	if !errors.Is(z.Err(), io.EOF) || scripts != 1 {
		t.Errorf("%d scripts, %v", scripts, z.Err())
	}
	if len(got) > 150_000 {
		t.Errorf("%d bytes", len(got))
	}
}

// busiest is as much as a page can be: every source busy, each second other.
func busiest() *agg.Status {
	s := gateway()
	for i := range s.History {
		x := &s.History[i]
		x.Sources, x.Drops, x.Lost = nil, nil, uint64(i%2)
		for k := range 16 {
			x.Sources = append(x.Sources, agg.SourceCount{NetNS: gw, Src: netip.AddrFrom16([16]byte{0x20, 1, 15: byte(k)}), New: uint64(1 + (i*(k+3)*7919)%997)})
			x.Drops = append(x.Drops, agg.ReasonCount{Reason: event.Reason(1 + k), Count: uint64((i * (k + 5) * 7907) % 499)})
		}
	}
	return s
}

func TestSize(t *testing.T) {
	if got := len(write(t, gateway())); got > 75_000 {
		t.Errorf("%d bytes", got)
	}
	if got := len(write(t, busiest())); got > 150_000 {
		t.Errorf("%d bytes at worst", got)
	}
	if len(script) > 4096 {
		t.Errorf("the script has %d bytes", len(script))
	}
}

// Rendering again is the same, and does not change what it is made of.
func TestDeterministic(t *testing.T) {
	s := gateway()
	if first := write(t, s); write(t, s) != first || write(t, gateway()) != first {
		t.Error("differs")
	}
}

func BenchmarkWrite(b *testing.B) {
	for name, s := range map[string]*agg.Status{"night": gateway(), "busiest": busiest()} {
		b.Run(name, func(b *testing.B) {
			p := New(Options{Names: names})
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Write(io.Discard, s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
