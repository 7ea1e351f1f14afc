package page

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
)

// A drawing says what its numbers say: the tests read it back.

// attr returns what pattern's group matches in doc, each time.
func attr(doc, pattern string) (out []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(doc, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestGaugeWidth(t *testing.T) {
	for _, tt := range []struct {
		entries, limit uint64
		want           string
	}{{0, 100, "0"}, {1, 3, "33.3"}, {70, 100, "70"}, {100, 100, "100"}, {300, 100, "100"}, {54753, 65536, "83.5"}, {999, 1000, "99.9"}} {
		d := &doc{Writer: &markup.Writer{}, o: &Options{}}
		d.gauge(&agg.TableState{Entries: tt.entries, Max: tt.limit})
		if got := attr(string(d.B), `class="part" width="([^"]*)"`); !slices.Equal(got, []string{tt.want}) {
			t.Errorf("%d of %d: %v, want %s", tt.entries, tt.limit, got, tt.want)
		}
		if !strings.Contains(string(d.B), "M70 0v18M85 0v18M95 0v18") {
			t.Error("no marks")
		}
	}
	d := &doc{Writer: &markup.Writer{}, o: &Options{}}
	d.gauge(&agg.TableState{Entries: 7})
	if strings.Contains(string(d.B), `class="part"`) || !strings.Contains(string(d.B), "7 of no limit") {
		t.Errorf("without a limit: %s", d.B)
	}
}

// The ends of the forecast: at the limit at their time, or where the line to it
// leaves the plot.
func TestForecastEnds(t *testing.T) {
	p := &plot{past: &past{}, ahead: 300, h: 100}
	y := func(n float64) float64 { return 100 - n }
	table := &agg.TableState{Entries: 40, Max: 100}
	for _, tt := range []struct {
		s    *float64
		x, y float64
	}{
		{new(120.0), 720, 0}, {new(300.0), 900, 0}, {new(600.0), 900, 30}, {new(0.0), 600, 0}, {new(-1.0), 600, 0},
		{nil, 900, 60}, {new(math.Inf(1)), 900, 60}, {new(math.NaN()), 900, 60},
	} {
		if x, py := p.ends(table, tt.s, y); x != tt.x || py != tt.y {
			t.Errorf("%v: %v %v, want %v %v", tt.s, x, py, tt.x, tt.y)
		}
	}
}

func TestForecastWords(t *testing.T) {
	for _, tt := range []struct {
		known, limited  bool
		full, low, high *float64
		want            string
	}{
		{false, true, nil, nil, nil, "forecast not known yet"}, {true, false, nil, nil, nil, ""}, {true, true, nil, nil, nil, "will not fill"},
		{true, true, nil, new(90.0), nil, "unlikely, not before 1m30s"}, {true, true, new(102.0), new(61.0), nil, "full in 1m42s (1m01s..never)"},
		{true, true, new(5.0), new(5.0), new(5.0), "full in 5s"}, {true, true, new(0.0), new(0.0), new(0.0), "full now"}, {true, true, new(math.Inf(1)), new(60.0), nil, "full in >999d (1m00s..never)"},
	} {
		if got := fullText(tt.known, tt.limited, tt.full, tt.low, tt.high); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// boxes reads a path of M x 0 h n ... back into seconds.
func boxes(t *testing.T, path string) (out [seconds]bool) {
	t.Helper()
	for _, m := range regexp.MustCompile(`M(\d+) \dh(\d+)v`).FindAllStringSubmatch(path, -1) {
		from, _ := strconv.Atoi(m[1])
		n, _ := strconv.Atoi(m[2])
		for i := from; i < from+n; i++ {
			out[i] = true
		}
	}
	return out
}

// The ribbon marks the seconds with loss and no others.
func TestRibbon(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var s []agg.Sample
		var want [seconds]bool
		for i := range seconds {
			x := agg.Sample{At: now.Add(time.Duration(i-seconds+1) * time.Second), Seen: 9}
			if want[i] = rapid.IntRange(0, 9).Draw(rt, "lost") == 0; want[i] {
				x.Lost = 1
			}
			s = append(s, x)
		}
		p := &plot{Writer: &markup.Writer{}, past: newPast(s, now, 1), h: 10}
		p.ribbon()
		lost, whole := boxes(t, attr(string(p.B), `class="lost" d="([^"]*)"`)[0]), boxes(t, attr(string(p.B), `class="whole" d="([^"]*)"`)[0])
		for i := range seconds {
			if lost[i] != want[i] || whole[i] == want[i] {
				rt.Fatalf("second %d: lost %v, whole %v, want %v", i, lost[i], whole[i], want[i])
			}
		}
	})
}

// A second that no sample tells of is neither whole nor lost; one that a later sample
// stands for is as that.
func TestGaps(t *testing.T) {
	at := func(s int) time.Time { return now.Add(time.Duration(s-599) * time.Second) }
	p := newPast([]agg.Sample{{At: at(590), New: 5}, {At: at(594).Add(200 * time.Millisecond), New: 40, Lost: 3, Peak: 900}, {At: at(599), New: 10}}, now, 1)
	var got []string
	for i := 588; i < seconds; i++ {
		s := p.s[i]
		got = append(got, fmt.Sprintf("%v %v %v %v", s.known, s.lost, s.new, s.peak))
	}
	want := []string{"false false 0 0", "false false 0 0", "true false 5 0", "true true 10 0", "true true 10 0", "true true 10 0", "true true 10 900",
		"true false 2 0", "true false 2 0", "true false 2 0", "true false 2 0", "true false 2 0"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// Whatever the clock of the sampler does, the seconds add up to the samples.
func TestPastAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s []agg.Sample
		var sum, drops, lost uint64
		at := now.Add(-500 * time.Second)
		for range rapid.IntRange(0, 120).Draw(t, "samples") {
			at = at.Add(time.Duration(rapid.IntRange(500, 4000).Draw(t, "ms")) * time.Millisecond)
			x := agg.Sample{At: at, New: rapid.Uint64Range(0, 1000).Draw(t, "new"), Lost: rapid.Uint64Range(0, 1).Draw(t, "lost"),
				Drops: []agg.ReasonCount{{Reason: event.TableFull, Count: rapid.Uint64Range(0, 9).Draw(t, "drops")}, {Reason: event.RulesetNew, Count: 3}}}
			sum, drops, lost = sum+x.New, drops+x.Drops[0].Count, lost+x.Lost
			s = append(s, x)
		}
		p := newPast(s, now, 3)
		var new, dropped, other float64
		for i := range p.s {
			new, dropped, other = new+p.s[i].new, dropped+p.s[i].drops, other+p.others.per[i]
		}
		if math.Abs(new-float64(sum)) > 1e-6 || math.Abs(other-float64(sum)) > 1e-6 || math.Abs(dropped-float64(drops)) > 1e-6 || p.new != sum || p.drops != drops || p.lost != lost {
			t.Fatalf("new %v and %d of %d, drops %v and %d of %d", new, p.new, sum, dropped, p.drops, drops)
		}
	})
}

// When no samples are taken any more the time goes on without them.
func TestHangs(t *testing.T) {
	p := newPast([]agg.Sample{{At: now.Add(-30 * time.Second), New: 5}}, now, 1)
	if !p.s[569].known || p.n != 1 || p.edge != now {
		t.Errorf("%d known, edge %v", p.n, p.edge)
	}
}

// cells reads the strip with this bottom back: the level of each second, -1 for none.
func cells(t *testing.T, doc string, class string, bottom int) (out [seconds]int) {
	t.Helper()
	for i := range out {
		out[i] = -1
	}
	for _, m := range regexp.MustCompile(`class="`+class+`(\d)" stroke-width="(\d+)" d="M(\d+) ([0-9.]+)h(\d+)([^"]*)"`).FindAllStringSubmatch(doc, -1) {
		h, _ := strconv.Atoi(m[2])
		if m[4] != strings.TrimSuffix(fmt.Sprintf("%.1f", float64(bottom)-float64(h)/2), ".0") {
			continue
		}
		level, _ := strconv.Atoi(m[1])
		at, _ := strconv.Atoi(m[3])
		paint := func(n int) {
			for i := at; i < at+n; i++ {
				if out[i] != -1 {
					t.Fatalf("second %d twice", i)
				}
				out[i] = level
			}
			at += n
		}
		n, _ := strconv.Atoi(m[5])
		paint(n)
		for _, r := range regexp.MustCompile(`m(\d+) 0h(\d+)`).FindAllStringSubmatch(m[6], -1) {
			gap, _ := strconv.Atoi(r[1])
			n, _ := strconv.Atoi(r[2])
			at += gap
			paint(n)
		}
	}
	return out
}

// Each cell of the map is what its source did in that second.
func TestStrips(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	rapid.Check(t, func(rt *rapid.T) {
		var s []agg.Sample
		var did [2][seconds]uint64
		for i := range seconds {
			x := agg.Sample{At: now.Add(time.Duration(i-seconds+1) * time.Second)}
			for k, src := range []netip.Addr{a, b} {
				if n := rapid.Uint64Range(0, 12).Draw(rt, "n"); n > 6 {
					did[k][i] = 1 << n
					x.Sources = append(x.Sources, agg.SourceCount{Src: src, New: did[k][i]})
					x.New += did[k][i]
				}
			}
			s = append(s, x)
		}
		d := &doc{Writer: &markup.Writer{}, o: &Options{}, s: &agg.Status{}, past: newPast(s, now, 10)}
		rows := d.sourceStrips()
		l := svg.NewLadder(highest(rows))
		p := &plot{Writer: d.Writer, past: d.past, h: 100}
		p.strips(rows, &l)
		for r := range rows {
			k := slices.Index([]string{a.String(), b.String()}, rows[r].name)
			got := cells(t, string(p.B), "h", r*rowH+rowLabel+rowCell)
			for i, n := range did[k] {
				if level := got[i]; level != l.Level(float64(n)) || level >= 0 && float64(n) < l[level] && level > 0 || level >= 0 && level < svg.Levels-1 && float64(n) >= l[level+1] {
					rt.Fatalf("%s in second %d: %d connections, level %d of %v", rows[r].name, i, n, level, l)
				}
			}
		}
	})
}

func TestLadder(t *testing.T) {
	for most, want := range map[float64]svg.Ladder{
		0: {1, 3, 10, 30, 100, 300}, 1: {1, 3, 10, 30, 100, 300}, 999: {1, 3, 10, 30, 100, 300}, 1000: {3, 10, 30, 100, 300, 1000}, 40000: {100, 300, 1000, 3000, 10000, 30000},
	} {
		if got := svg.NewLadder(most); got != want {
			t.Errorf("%v: %v", most, got)
		}
	}
	l := svg.NewLadder(1000)
	for n, want := range map[float64]int{0: -1, 0.2: 0, 1: 0, 9.9: 0, 10: 1, 999: 4, 1000: 5, 1e9: 5} {
		if got := l.Level(n); got != want {
			t.Errorf("%v: level %d, want %d", n, got, want)
		}
	}
}

// Sources are the busiest of the window, the same address in two namespaces is two,
// and what they did not open others did.
func TestSources(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	p := newPast([]agg.Sample{
		{At: now.Add(-time.Hour), New: 9, Sources: []agg.SourceCount{{Src: c, New: 9000}}},
		{At: now.Add(-time.Second), New: 10, Sources: []agg.SourceCount{{NetNS: 1, Src: a, New: 4}, {NetNS: 2, Src: a, New: 3}, {NetNS: 1, Src: b, New: 1}}},
		{At: now, New: 8, Sources: []agg.SourceCount{{NetNS: 1, Src: a, New: 5}, {NetNS: 2, Src: a, New: 5}}},
	}, now, 2)
	if len(p.sources) != 2 || p.sources[0].key != (origin{1, a}) || p.sources[0].total != 9 || p.sources[1].key != (origin{2, a}) || p.sources[1].total != 8 {
		t.Fatalf("%+v", p.sources)
	}
	if at, n := p.sources[1].most(); at != 599 || n != 5 {
		t.Errorf("most %v in second %d", n, at)
	}
	// Samples of sources and of all are not taken at one moment: never below 0.
	if p.others.total != 3 || p.others.per[599] != 0 {
		t.Errorf("others %d, %v", p.others.total, p.others.per[598:])
	}
}

// The area ends at each second's value, and leaves out what is not known.
func TestArea(t *testing.T) {
	value := func(i int) float64 {
		switch {
		case i < 2 || i == 10:
			return math.NaN()
		case i < 5:
			return 0.5
		case i < 10:
			return 1
		}
		return 0
	}
	p := &plot{Writer: &markup.Writer{}, past: &past{}, h: 100}
	p.area("x", value)
	if want := `<path class="x" d="M2 100V50H5V0H10V100H2zM11 100V100H600V100H11z"/>`; string(p.B) != want {
		t.Errorf("%s", p.B)
	}
}

// Whole minutes of UTC stand where they belong.
func TestTicks(t *testing.T) {
	p := &plot{Writer: &markup.Writer{}, past: &past{edge: time.Date(2026, 11, 23, 3, 14, 30, 0, time.UTC)}, ahead: 300}
	var got []string
	p.eachTick(func(x float64, text string, _ bool) { got = append(got, fmt.Sprint(x, " ", text)) })
	if want := []string{"90 03:06", "210 03:08", "330 03:10", "450 03:12", "570 03:14", "690 03:16", "810 03:18"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A past that has just begun is not a speck at the edge: as little is shown as holds it.
func TestWindow(t *testing.T) {
	for known, want := range map[int]int{1: 120, 120: 120, 121: 300, 300: 300, 301: 600, 600: 600} {
		var s []agg.Sample
		for i := range known {
			s = append(s, agg.Sample{At: now.Add(time.Duration(i+1-known) * time.Second)})
		}
		if p := newPast(s, now, 1); seconds-p.from != want {
			t.Errorf("%d seconds known: %d shown, want %d", known, seconds-p.from, want)
		}
	}
	p := &plot{Writer: &markup.Writer{}, past: &past{edge: time.Date(2026, 11, 23, 3, 14, 40, 0, time.UTC), from: 480}, h: 10}
	var got []string
	p.eachTick(func(x float64, text string, _ bool) { got = append(got, fmt.Sprint(x, " ", p.share(x), " ", text)) })
	if want := []string{"500 16.666666666666668 03:13:00", "530 41.666666666666664 03:13:30", "560 66.66666666666667 03:14:00", "590 91.66666666666667 03:14:30"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if p.inside(); !strings.Contains(string(p.B), `viewBox="480 0 120 10"`) {
		t.Errorf("%s", p.B)
	}
}

// A limit that was changed is told with the time, and the scale is that of today's.
func TestLimitWas(t *testing.T) {
	s := gateway()
	for i := range s.History[:400] {
		s.History[i].Tables[0].Max = 1 << 20
	}
	got := write(t, s)
	wants(t, got, "Until 03:10:46 its limit was 1,048,576.")
	if labels := attr(got, `class="num left"[^>]*>([^<]*)<`); !slices.Equal(labels[:3], []string{"0", "32.8k", "65.5k"}) {
		t.Errorf("scale %q", labels)
	}
}

// The middle one of all lifetimes is in the bucket that is named.
func TestMedian(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l lived
		var all []int
		for b := range buckets {
			a, u := rapid.Uint64Range(0, 3).Draw(t, "answered"), rapid.Uint64Range(0, 3).Draw(t, "not")
			l.answered.Buckets[b], l.unanswered.Buckets[b] = a, u
			l.answered.N, l.unanswered.N = l.answered.N+a, l.unanswered.N+u
			for range a + u {
				all = append(all, b)
			}
		}
		want := -1
		if len(all) > 0 {
			want = all[(len(all)-1)/2]
		}
		if got := l.median(); got != want {
			t.Fatalf("bucket %d, want %d", got, want)
		}
	})
	for b, want := range map[int]string{0: "less than 2us", 10: "1ms to 2ms", 20: "1.0s to 2.0s", buckets - 1: "more than 6d08h"} {
		if got := between(b); got != want {
			t.Errorf("%d: %q, want %q", b, got, want)
		}
	}
	if at := bucketAt(time.Second); math.Abs(at-math.Log2(1e6)) > 1e-9 {
		t.Errorf("1 s lies at %v", at)
	}
}

// Protocols are summed over their states, both kinds of ICMP are one.
func TestProtocols(t *testing.T) {
	got := protocols(agg.Lifetimes{
		{Proto: event.ProtoTCP, State: event.TCPClose, Answered: true}: histogram(3, 1), {Proto: event.ProtoTCP, State: event.TCPTimeWait, Answered: true}: histogram(3, 2),
		{Proto: event.ProtoTCP}: histogram(4, 5), {Proto: event.ProtoICMP}: histogram(1, 1), {Proto: event.ProtoICMPv6}: histogram(1, 1), {Proto: 50}: histogram(1, 9),
	})
	var text []string
	for i := range got {
		text = append(text, fmt.Sprint(got[i].name, got[i].answered.N, got[i].answered.Buckets[3], got[i].unanswered.N))
	}
	if want := []string{"tcp3 3 5", "icmp0 0 2", "other0 0 9"}; !slices.Equal(text, want) {
		t.Errorf("%q", text)
	}
}

// What a source lost is told by reason as far as its row knows, and all of it.
func TestLostBy(t *testing.T) {
	r := &agg.TopRow{Sums: agg.Sums{Drops: 100}, Why: []agg.WhyCount{{Drop: true, Reason: event.TableFull, Count: 60}, {Cause: event.Cause(event.ClashSameFlow), Count: 9},
		{Drop: true, Reason: event.RulesetNew, Count: 50}, {Drop: true, Reason: event.ClashSameFlow, Count: 30}, {More: true, Count: 70}}}
	by, other := lostBy(r, []event.Reason{event.TableFull, event.ClashSameFlow, event.NATExhausted})
	if !slices.Equal(by, []uint64{60, 30, 0}) || other != 10 {
		t.Errorf("%v, other %d", by, other)
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", math.MaxUint64: "18,446,744,073,709,551,615"} {
		if got := markup.Count(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
	for _, tt := range []struct {
		n, of uint64
		want  string
	}{{0, 0, "–"}, {0, 9, "0.0 %"}, {1, 1001, "<0.1 %"}, {1, 1000, "0.1 %"}, {99999, 100000, "99.9 %"}, {5, 5, "100.0 %"}, {7, 5, "140.0 %"}} {
		if got := markup.Percent(tt.n, tt.of); got != tt.want {
			t.Errorf("%d of %d: %q", tt.n, tt.of, got)
		}
	}
	for r, want := range map[float64]string{0: "0", 3: "3", 0.25: "0.2", 9.94: "9.9", 9.96: "10", 1402.5: "1,403", -1: "–", math.Inf(1): "1,000,000,000,000,000,000"} {
		if got := markup.Rate(r); got != want {
			t.Errorf("%v: %q, want %q", r, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 100: "100", 1000: "1k", 65536: "65.5k", 32768: "32.8k", 10000: "10k", 262144: "262.1k", 2000000: "2M"} {
		if got := markup.Short(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
