package report

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/net/html"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/report/uplot"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func htmlOf(t testing.TB, d, before *Data) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteHTML(&b, d, before); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func markdownOf(t testing.TB, d, before *Data) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteMarkdown(&b, d, before); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
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
		t.Errorf("%s differs: look at it, then go test ./internal/report -update", file)
	}
}

// small is a capture of which the whole document can be read.
func small() *play {
	p := newPlay(Options{Name: "small", Max: 10})
	var all []event.Event
	for i := range 9 {
		all = append(all, p.open(tupleOf(event.ProtoTCP, "10.0.0."+strconv.Itoa(1+i%3), "10.9.0.1", uint16(2000+i), uint16(80+i%2))))
		p.wait(3 * time.Millisecond)
		if i%2 == 0 {
			p.status(all[i], event.SeenReply)
		}
	}
	p.drop(tupleOf(event.ProtoUDP, "10.0.0.9", "10.9.0.1", 1, 53), event.TableFull)
	for _, e := range all {
		p.wait(time.Millisecond)
		p.close(e, event.TimeoutGC, event.Tuple{})
	}
	return p
}

// The document of a few events, byte for byte but for its style and script, and its
// ticket.
func TestGolden(t *testing.T) {
	d := small().g.Data()
	got := htmlOf(t, d, nil)
	style := markup.Base + uplot.Style + ownStyle
	for _, x := range []string{style, script, uplot.Script, uplot.License, hash(style), hash(script), hash(uplot.Script)} {
		if n := strings.Count(got, x); n != 1 {
			t.Errorf("%d times %.40q", n, x)
		}
		got = strings.Replace(got, x, "", 1)
	}
	golden(t, "small.html", got)
	golden(t, "incident.md", markdownOf(t, incident().g.Data(), small().g.Data()))
}

// cells returns the cells of a table by its id.
func cells(t *testing.T, root *html.Node, id string) (rows [][]string) {
	t.Helper()
	for n := range root.Descendants() {
		if attribute(n, "id") != id+"-w" {
			continue
		}
		for tr := range n.Descendants() {
			if tr.Data != "tr" || tr.Parent.Data != "tbody" {
				continue
			}
			var row []string
			for td := range tr.ChildNodes() {
				row = append(row, text(td))
			}
			rows = append(rows, row)
		}
		return rows
	}
	t.Fatalf("no table %s", id)
	return nil
}

func text(n *html.Node) (s string) {
	for c := range n.Descendants() {
		if c.Type == html.TextNode {
			s += c.Data
		}
	}
	return s
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func parse(t *testing.T, doc string) *html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.ReplaceAll(s, ",", ""), 10, 64)
	if err != nil {
		t.Errorf("no number: %q", s)
	}
	return n
}

// What the tables say is what was told, counted a second time.
func TestCounts(t *testing.T) {
	p := incident()
	root := parse(t, htmlOf(t, p.g.Data(), nil))
	rates := cells(t, root, "rates")
	var sum [4]uint64
	for _, r := range rates[:len(rates)-1] {
		for i, c := range []int{1, 4, 5, 6} {
			sum[i] += number(t, r[c])
		}
	}
	want := [4]uint64{p.truth.new, p.truth.destroyed, p.truth.evicted, p.truth.dropped}
	if sum != want {
		t.Errorf("columns add up to %v, want %v", sum, want)
	}
	last := rates[len(rates)-1]
	if got := [4]uint64{number(t, last[1]), number(t, last[4]), number(t, last[5]), number(t, last[6])}; got != want {
		t.Errorf("sums are %v, want %v", got, want)
	}
	bySource := map[netip.Addr]uint64{}
	for _, r := range cells(t, root, "sources") {
		bySource[netip.MustParseAddr(r[0])] = number(t, r[1])
	}
	if !maps.Equal(bySource, p.truth.bySource) {
		t.Errorf("sources %v, want %v", bySource, p.truth.bySource)
	}
	for id, want := range map[string]uint64{"drops": p.truth.dropped, "evictions": p.truth.evicted, "lifetimes": p.truth.destroyed, "causes": p.truth.destroyed, "holders": 962} {
		column := map[string]int{"drops": 3, "evictions": 1, "lifetimes": 3, "causes": 1, "holders": 4}[id]
		n := uint64(0)
		for _, r := range cells(t, root, id) {
			n += number(t, r[column])
		}
		if n != want {
			t.Errorf("%s adds up to %d, want %d", id, n, want)
		}
	}
	most := uint64(0)
	for _, r := range cells(t, root, "occupancy") {
		most = max(most, number(t, r[len(r)-4]))
		n := uint64(0)
		for _, c := range r[1 : len(r)-4] {
			n += number(t, c)
		}
		if n != number(t, r[len(r)-4]) {
			t.Errorf("classes of %v add up to %d", r, n)
		}
	}
	if most != 1000 {
		t.Errorf("most entries %d, want 1000", most)
	}
}

// Columns join as they must: whatever comes when, each holds what an honest count of
// its time has.
func TestColumns(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := newPlay(Options{})
		type told struct {
			at       event.Ktime
			new, die bool
			life     time.Duration
			src      netip.Addr
		}
		var all []told
		var live []event.Event
		for range 3000 {
			p.wait(time.Duration(r.ExpFloat64() * float64(10*time.Millisecond) * float64(1+seed*seed)))
			if len(live) > 0 && r.IntN(5) < 2 {
				i := r.IntN(len(live))
				all = append(all, told{at: p.at, die: true, life: p.at.Sub(live[i].Time)})
				p.close(live[i], event.TimeoutGC, event.Tuple{})
				live = slices.Delete(live, i, i+1)
				continue
			}
			u := tupleOf(event.ProtoUDP, "10.0.0."+strconv.Itoa(1+r.IntN(5)), "10.9.0.1", 1, 53)
			all = append(all, told{at: p.at, new: true, src: u.Src})
			live = append(live, p.open(u))
		}
		d := p.g.Data()
		if len(d.Columns) > maxColumns || len(d.Columns) < 2 {
			t.Fatalf("%d columns", len(d.Columns))
		}
		want := make([]Column, len(d.Columns))
		high := make([]uint32, len(d.Columns))
		lines := map[string][]uint64{}
		n, last := uint32(0), -1
		for i, x := range all {
			c := int(d.wall(x.at).Sub(d.Start) / d.Width)
			for last < c {
				last++
				high[last] = n
			}
			if x.die {
				want[c].Destroyed++
				n--
				b := 0
				for us := x.life.Microseconds(); us > 1; us /= 2 {
					b++
				}
				want[c].Lives[b]++
				continue
			}
			want[c].New++
			n++
			high[c] = max(high[c], n)
			name := x.src.String()
			if lines[name] == nil {
				lines[name] = make([]uint64, len(d.Columns))
			}
			lines[name][c]++
			peak := uint64(0)
			for j := i; j >= 0 && x.at/peakSlot-all[j].at/peakSlot < 5; j-- {
				if all[j].new {
					peak++
				}
			}
			want[c].Peak = max(want[c].Peak, peak)
		}
		for i := range want {
			if d.Columns[i] != want[i] {
				t.Fatalf("seed %d, column %d of %v: %+v, want %+v", seed, i, d.Width, d.Columns[i], want[i])
			}
			if got := d.Tables[0].Columns[i].Total; got != high[i] {
				t.Fatalf("seed %d, column %d: %d entries, want %d", seed, i, got, high[i])
			}
		}
		for _, l := range d.Lines {
			if !slices.Equal(l.New, lines[l.Name]) {
				t.Errorf("seed %d: %s over time", seed, l.Name)
			}
		}
	}
}

// The same capture gives the same bytes.
func TestSame(t *testing.T) {
	a, b := incident().g.Data(), incident().g.Data()
	if htmlOf(t, a, small().g.Data()) != htmlOf(t, b, small().g.Data()) || markdownOf(t, a, b) != markdownOf(t, b, a) {
		t.Error("two runs differ")
	}
	var one, two bytes.Buffer
	for _, w := range []*bytes.Buffer{&one, &two} {
		big := flood(20_000, 9_000)
		if err := WriteHTML(w, big, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two runs with folded sources differ")
	}
}

// Nothing in the file asks for anything: the policy forbids it, and there is nothing to
// forbid.
func TestSealed(t *testing.T) {
	doc := htmlOf(t, incident().g.Data(), small().g.Data())
	root := parse(t, doc)
	policy := ""
	ids := map[string]int{}
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if id := attribute(n, "id"); id != "" {
			ids[id]++
		}
		if attribute(n, "http-equiv") == "Content-Security-Policy" {
			policy = attribute(n, "content")
			if n.PrevSibling == nil || n.Parent.Data != "head" {
				t.Error("the policy is not in the head")
			}
		}
		switch n.Data {
		case "link", "img", "iframe", "object", "embed", "form", "image", "use", "base", "audio", "video":
			t.Errorf("<%s> in the file", n.Data)
		case "style", "script":
			if attribute(n, "type") == "application/json" { // which nobody runs
				if !json.Valid([]byte(n.FirstChild.Data)) {
					t.Error("what the script is to read is no JSON")
				}
				break
			}
			if h := hash(n.FirstChild.Data); !strings.Contains(policy, h) {
				t.Errorf("<%s> with %s is not in the policy %s", n.Data, h, policy)
			}
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "src", a.Key == "srcset", a.Key == "style", strings.HasPrefix(a.Key, "on"), strings.Contains(a.Key, "xlink"):
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			case a.Key == "href" && !strings.HasPrefix(a.Val, "#"):
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
	}
	if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("policy %q", policy)
	}
	for n := range root.Descendants() {
		for _, id := range strings.Fields(attribute(n, "aria-labelledby")) {
			if ids[id] != 1 {
				t.Errorf("%d times %q", ids[id], id)
			}
		}
		if to, ok := strings.CutPrefix(attribute(n, "href"), "#"); ok && ids[to] != 1 {
			t.Errorf("a link to %q", to)
		}
	}
	if at := regexp.MustCompile(`(?i)url\(|@import|https?://[^w]|https?://www\.[^w]|//cdn`).FindString(strings.Replace(doc, "/*! https://github.com/leeoniya/uPlot", "", 1)); at != "" {
		t.Errorf("%q in the file", at)
	}
}

// Each picture says in words what is to be seen, and has its numbers as a table.
func TestWords(t *testing.T) {
	root := parse(t, htmlOf(t, incident().g.Data(), nil))
	figures := 0
	for n := range root.Descendants() {
		if n.Type == html.ElementNode && n.Data == "figure" {
			figures++
			if c := n.FirstChild; c == nil || c.Data != "figcaption" || len(text(c)) < 40 {
				t.Errorf("%s: no caption", attribute(n.Parent, "id"))
			}
			tables := 0
			for x := range n.Descendants() {
				if x.Data == "table" {
					tables++
				}
			}
			if tables == 0 {
				t.Errorf("%s: no numbers", attribute(n.Parent, "id"))
			}
		}
	}
	if figures != 8 {
		t.Errorf("%d figures, want 8", figures)
	}
}

const evil = "<script>alert(1)</script>\"'><img src=x onerror=y>\x1b[31m\u202e|[x](javascript:y)`\x00"

// hostile is a capture in which every string is what an attacker would choose.
func hostile() *Data {
	p := newPlay(Options{Name: evil})
	p.open(tupleOf(event.ProtoTCP, "fe80::1%"+strings.Repeat("<b>", 20), "fe80::2", 1, 2))
	p.g.Table(p.at, Table{NetNS: 4026532000, Name: evil, Entries: 1, Max: 1})
	p.g.Change(Change{Time: p.at, Name: evil, From: evil, To: evil})
	p.g.Found(&agg.Finding{ID: evil, Class: evil, Shape: evil, State: agg.Confirmed, Severity: evil, Why: evil + strings.Repeat("<i>", 1000), WhyNotBenign: evil, First: testClock.At(p.at), Last: testClock.At(p.at),
		Source:   netip.MustParsePrefix("192.0.2.1/32"),
		Evidence: agg.Evidence{Samples: []agg.Contacted{{Outcome: evil}}}})
	return p.g.Data()
}

// What an attacker may choose, and what is in a file, is text.
func TestHostile(t *testing.T) {
	d := hostile()
	doc := htmlOf(t, d, d)
	for _, bad := range []string{"<script>alert", "<img", "<b>fe80", "<i><i>", "\x1b", "\u202e", "\x00"} {
		if strings.Contains(doc, bad) {
			t.Errorf("%q in the HTML", bad)
		}
	}
	n := 0
	for x := range parse(t, doc).Descendants() {
		if x.Type == html.ElementNode && x.Data == "script" {
			n++
		}
	}
	if n != 3 { // uPlot, ours, and what it reads
		t.Errorf("%d scripts", n)
	}
	md := markdownOf(t, d, d)
	for _, bad := range []string{"<script", "<img", "x](", "\x1b", "\u202e", "\x00"} {
		if strings.Contains(md, bad) {
			t.Errorf("%q in the ticket", bad)
		}
	}
	for _, r := range md {
		if r != '\n' && !strconv.IsPrint(r) || unicode.Is(unicode.Cf, r) {
			t.Errorf("%q in the ticket", r)
		}
	}
}

// A capture with nothing in it, and one with one event, are reports too.
func TestLittle(t *testing.T) {
	d := New(Options{Name: "empty"}).Data()
	if doc := htmlOf(t, d, d); !strings.Contains(doc, "Nothing is in this capture") {
		t.Error(doc)
	}
	if md := markdownOf(t, d, nil); !strings.Contains(md, "Nothing is in this capture") {
		t.Error(md)
	}
	p := newPlay(Options{Name: "one"})
	p.open(tupleOf(event.ProtoGRE, "10.0.0.1", "10.0.0.2", 0, 0))
	one := p.g.Data()
	if doc := htmlOf(t, one, d); strings.Contains(doc, "NaN") || strings.Contains(doc, "Inf") {
		t.Error("a number that is none")
	}
	q := newPlay(Options{Name: "only an end"})
	q.close(event.Event{Ptr: 7, Time: q.at - 1, Orig: tupleOf(event.ProtoUDP, "10.0.0.1", "10.0.0.2", 1, 2)}, event.Timeout, event.Tuple{})
	if x := q.g.Data(); x.Strangers != 1 || !strings.Contains(htmlOf(t, x, nil), "not seen to begin") {
		t.Errorf("%d strangers", x.Strangers)
	}
}

// flood is a capture of so many connections of so many sources, most of them forged.
func flood(n, sources int) *Data {
	p := newPlay(Options{Name: "flood", Max: 1 << 19})
	var live []event.Event
	for i := range n {
		src := netip.AddrFrom4([4]byte{100, byte(i % sources >> 16), byte(i % sources >> 8), byte(i % sources)})
		if i%3 == 0 {
			src = netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 7)})
		}
		u := event.Tuple{Proto: event.ProtoUDP, Src: src, Dst: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), Sport: uint16(i), Dport: uint16(i * 7)}
		if i%4 == 0 {
			u.Proto = event.ProtoTCP
		}
		live = append(live, p.open(u))
		if len(live) > n/10 {
			p.close(live[0], event.TimeoutGC, event.Tuple{})
			live = live[1:]
		}
		if i%11 == 0 {
			p.drop(u, event.TableFull)
		}
		p.wait(time.Duration(50+i%997) * time.Microsecond)
	}
	return p.g.Data()
}

// Two million events of half a million sources: the file is small, and so is what is
// held meanwhile.
func TestSize(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := flood(1_000_000, 500_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if d.Told < 1_900_000 {
		t.Fatalf("%d events", d.Told)
	}
	doc := htmlOf(t, d, d)
	t.Logf("%d events: %d bytes", d.Told, len(doc))
	if len(doc) > 5_000_000 {
		t.Errorf("%d bytes", len(doc))
	}
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 32<<20 {
		t.Errorf("%d bytes are held", grew)
	}
	var shown uint64
	for _, l := range d.Lines {
		shown += l.Total
	}
	for _, n := range d.Others {
		shown += n
	}
	if shown != d.Totals.New {
		t.Errorf("sources and others add up to %d, want %d", shown, d.Totals.New)
	}
	for i := range 3 { // those who keep coming are not hidden by those who came once
		if !strings.HasPrefix(d.Lines[i].Name, "10.0.0.") {
			t.Errorf("%s is among the first", d.Lines[i].Name)
		}
	}
	if len(d.Omitted) == 0 || !strings.Contains(doc, "made room for others") {
		t.Error("does not say what was left out")
	}
}

// A table that fills at an even rate: the forecast is held against what came.
func TestForecast(t *testing.T) {
	p := newPlay(Options{Max: 3000})
	for i := range 3000 {
		p.open(tupleOf(event.ProtoTCP, "198.51.100.1", "10.9.0.1", uint16(i), 80))
		p.wait(10 * time.Millisecond)
	}
	d := p.g.Data()
	var percents []int
	for _, c := range d.Tables[0].Crossings {
		percents = append(percents, c.Percent)
		if c.Percent == 100 {
			continue
		}
		left := time.Duration(100-c.Percent) * 300 * time.Millisecond
		if !c.Outlook.Known || c.Outlook.Full < left*8/10 || c.Outlook.Full > left*12/10+time.Second {
			t.Errorf("at %d %%: full in %v, and it was %v", c.Percent, c.Outlook.Full, left)
		}
	}
	if !slices.Equal(percents, []int{70, 85, 95, 100}) {
		t.Errorf("crossed %v", percents)
	}
	doc := htmlOf(t, d, nil)
	for _, want := range []string{`class="fan"`, `class="expected"`, "limit 3,000", "At 70 %", "and it was full after 9.0s"} {
		if !strings.Contains(doc, want) {
			t.Errorf("does not have %s", want)
		}
	}
}

// What swings around a level crosses it once, and a limit that is raised is one crossing.
func TestCrossings(t *testing.T) {
	p := newPlay(Options{})
	for _, n := range []uint64{650, 710, 690, 720, 680, 705, 660, 980, 1000, 1000} {
		p.wait(time.Second)
		p.g.Table(p.at, Table{Entries: n, Max: 1000})
	}
	p.wait(time.Second)
	p.g.Table(p.at, Table{Entries: 1000, Max: 5000})
	var got []string
	for _, m := range p.g.Data().Marks {
		got = append(got, m.Kind.String()+" "+m.Text)
	}
	want := []string{"threshold the table over 70 %: 710 of 1,000", "threshold the table below 70 %: 660 of 1,000", "threshold the table over 70 %: 980 of 1,000", "threshold the table over 85 %: 980 of 1,000",
		"threshold the table over 95 %: 980 of 1,000", "threshold the table full: 1,000 of 1,000", "setting nf_conntrack_max: 1,000 → 5,000", "threshold the table below 70 %: 1,000 of 5,000"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A scanner is followed from its first connection, which was before it was found.
func TestScanner(t *testing.T) {
	d := incident().g.Data()
	s := d.Scanners[0]
	if len(d.Scanners) != 1 || s.Seen != 200 || s.Distinct != 200 || len(s.Dots) != 200 || s.Every != 1 || len(s.Line) != 200 || s.ByDst {
		t.Errorf("%d scanners: %d seen, %d distinct, %d dots", len(d.Scanners), s.Seen, s.Distinct, len(s.Dots))
	}
	p := newPlay(Options{})
	p.g.Found(&agg.Finding{ID: "1", Class: "scan", Shape: "horizontal", State: agg.Confirmed, Source: netip.MustParsePrefix("192.0.2.0/24"), First: began})
	for i := range 20_000 {
		p.open(event.Tuple{Proto: event.ProtoTCP, Src: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Dst: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Dport: 23})
		p.wait(time.Millisecond)
	}
	s = p.g.Data().Scanners[0]
	if s.Seen != 20_000 || s.Distinct != 20_000 || s.Every != 8 || len(s.Dots) != 2500 || !s.ByDst {
		t.Errorf("%d seen, %d distinct, %d dots, one of %d", s.Seen, s.Distinct, len(s.Dots), s.Every)
	}
	for i, x := range s.Dots {
		if b := x.Dst.As4(); int(b[2])<<8+int(b[3]) != 8*i {
			t.Fatalf("dot %d is %v", i, x.Dst)
		}
	}
}

// The list answers what the capture can, and says what it cannot.
func TestChecks(t *testing.T) {
	answers := func(d *Data) (out []string) {
		for _, c := range d.Checks() {
			out = append(out, c.Who+": "+c.Question+" "+c.Answer.String())
		}
		return out
	}
	got := answers(incident().g.Data())
	for _, want := range []string{"platform: Did the table reach its limit? yes", "platform: Did conntrack lose packets? yes", "platform: Were entries evicted? yes", "platform: Was a setting changed meanwhile? yes",
		"platform: Was there time between the first threshold and a full table? no", "security: Did somebody scan? yes", "security: Was there a flood, or amplification? no", "edge: Did many connections never get an answer? yes",
		"edge: Did a NAT address run out of ports? no"} {
		if !slices.Contains(got, want) {
			t.Errorf("not answered: %s", want)
		}
	}
	p := newPlay(Options{})
	p.open(tupleOf(event.ProtoTCP, "10.0.0.1", "10.9.0.1", 1, 80))
	got = answers(p.g.Data())
	for _, want := range []string{"platform: Did the table reach its limit? not known from this capture", "platform: Did conntrack lose packets? not known from this capture", "edge: Did a NAT address run out of ports? not known from this capture",
		"security: Did somebody scan? no"} {
		if !slices.Contains(got, want) {
			t.Errorf("not answered: %s", want)
		}
	}
}

// Two captures side by side: what is new, what is gone, what grew.
func TestCompare(t *testing.T) {
	before, after := small().g.Data(), incident().g.Data()
	rows := map[string]Pair{}
	for _, p := range Compare(before, after) {
		rows[p.What] = p
	}
	if p := rows["new connections"]; p != (Pair{"new connections", "9", "1,567", "×174"}) {
		t.Errorf("%+v", p)
	}
	if p := rows["most entries in the table"]; p.Before != "9 of 10" || p.After != "1,000 of 1,000" {
		t.Errorf("%+v", p)
	}
	shifts := Shifts(before, after)
	if len(shifts) != 1 || !shifts[0].New || shifts[0].Name != "scan vertical 203.0.113.7 → 10.9.0.1" {
		t.Errorf("%+v", shifts)
	}
	if back := Shifts(after, before); len(back) != 1 || back[0].New {
		t.Errorf("%+v", back)
	}
	shares := Shares(before, after)
	if shares[0] != (Share{"198.51.100.9", 0, 1067}) || !slices.Contains(shares, Share{"10.0.0.1", 3, 0}) {
		t.Errorf("%+v", shares)
	}
	for x, want := range map[[2]float64]string{{1, 1}: "=", {0, 5}: "", {10, 15}: "+50 %", {10, 5}: "−50 %", {1, 20}: "×20"} {
		if got := change(x[0], x[1]); got != want {
			t.Errorf("%v: %q, want %q", x, got, want)
		}
	}
}

func BenchmarkGather(b *testing.B) {
	p := newPlay(Options{})
	b.ReportAllocs()
	var live []event.Event
	for i := 0; b.Loop(); i++ {
		live = append(live, p.open(event.Tuple{Proto: event.ProtoTCP, Src: netip.AddrFrom4([4]byte{10, 0, byte(i % 300 >> 8), byte(i % 300)}), Dst: netip.AddrFrom4([4]byte{10, 9, 0, 1}), Sport: uint16(i), Dport: 443}))
		if len(live) > 50_000 {
			p.close(live[0], event.TimeoutGC, event.Tuple{})
			live = live[1:]
		}
		p.wait(10 * time.Microsecond)
	}
}

// What was in the table before is held, and not new; it is known by its tuple until its
// address is told.
func TestEntries(t *testing.T) {
	p := newPlay(Options{})
	u := tupleOf(event.ProtoUDP, "10.0.0.1", "10.9.0.1", 1, 53)
	for range 2 { // a dump may tell it twice
		p.g.Entry(&event.Event{Time: p.at, Kind: event.New, Orig: u})
	}
	p.g.Status(Status{Time: p.at, Orig: u, Bits: event.SeenReply})
	p.wait(time.Second)
	p.g.Event(&event.Event{Time: p.at, Kind: event.Destroy, Orig: u, Ptr: 0xffff888000000001, Cause: event.TimeoutGC})
	d := p.g.Data()
	if h := d.Tables[0].Columns[0]; h.Total != 1 || h.By[UDPAnswered] != 1 || d.Totals.New != 0 || d.Strangers != 0 {
		t.Errorf("%+v, %d new, %d strangers", h, d.Totals.New, d.Strangers)
	}
	if h := p.g.tables[place{}].now; h.Total != 0 {
		t.Errorf("%d are left", h.Total)
	}
}

// Sums are in the counts, and the account of records in the ribbon.
func TestSumsAndLoss(t *testing.T) {
	p := newPlay(Options{})
	p.g.From(0, Node{Backend: "fentry"})
	src := netip.MustParseAddr("10.0.0.1")
	p.g.State(p.at, []agg.TableState{{NetNS: 7, Name: "x", Entries: 5, Max: 10}, {NetNS: 8, Err: "gone"}}, agg.Loss{})
	for i, lost := range []uint64{0, 3, 3, 10} {
		p.wait(time.Second)
		p.g.Sum(&event.Sum{NetNS: 7, Src: src, Kind: event.New, N: 100, From: p.at, Last: p.at})
		p.g.Sum(&event.Sum{NetNS: 7, Src: src, Kind: event.Destroy, Cause: event.EarlyDrop, N: 20, From: p.at, Last: p.at})
		p.g.Sum(&event.Sum{NetNS: 7, Src: src, Kind: event.Drop, Reason: event.TableFull, N: uint64(i), From: p.at, Last: p.at})
		p.g.State(p.at, []agg.TableState{{NetNS: 7, Name: "x", Entries: 6, Max: 10}}, agg.Loss{Lost: lost})
	}
	d := p.g.Data()
	if n := d.sum(newOf); n != 400 || d.Totals.New != 400 || d.Lines[0].Total != 400 || d.Busiest[0].New != 400 || d.Summed != 486 {
		t.Errorf("%d, %d new, %d of the source, %d summed", n, d.Totals.New, d.Lines[0].Total, d.Summed)
	}
	if d.sum(evictedOf) != 80 || d.sum(droppedOf) != 6 || d.lostPackets() != 6 || len(d.Tables) != 1 {
		t.Errorf("%d evicted, %d lost", d.sum(evictedOf), d.sum(droppedOf))
	}
	var gaps []string
	for i := range d.Columns {
		if d.Columns[i].Gap && (i == 0 || !d.Columns[i-1].Gap) {
			gaps = append(gaps, d.at(i).Format("05.0"))
		}
	}
	if !d.LossTold || d.Lost != 10 || !slices.Equal(gaps, []string{"01.0", "03.0"}) {
		t.Errorf("%d lost, gaps from %v", d.Lost, gaps)
	}
}

// What is over was true; what was excused was not.
func TestOver(t *testing.T) {
	for excused, want := range map[bool]uint64{false: 1, true: 0} {
		p := newPlay(Options{})
		p.open(tupleOf(event.ProtoTCP, "192.0.2.1", "10.9.0.1", 1, 80))
		f := agg.Finding{ID: "1", Class: "scan", Source: netip.MustParsePrefix("192.0.2.1/32"), First: testClock.At(p.at), Last: testClock.At(p.at)}
		for _, state := range []string{agg.Suspect, agg.Confirmed, agg.Cleared, agg.Cleared} {
			f.State, f.Excused = state, state == agg.Cleared && excused
			p.g.Found(&f)
		}
		if got := p.g.Data().confirmed(); got != want {
			t.Errorf("excused %v: %d confirmed, want %d", excused, got, want)
		}
	}
}

// Whatever is told, in whatever order: a report, and no number in it that is none.
func FuzzGather(f *testing.F) {
	f.Add([]byte("\x00\x01abcdefgh\x02\xff\xff\xff\xff\xff\xff\xff\x7f\x01zzzzzzzz"))
	f.Add(bytes.Repeat([]byte{3, 1, 0, 0, 0, 0, 0, 0, 128, 9, 4, 1, 2, 3, 4, 5, 6, 7}, 30))
	f.Fuzz(func(t *testing.T, in []byte) {
		g := New(Options{Clock: event.Clock{Wall: time.Unix(0, 0)}, Max: 7})
		at := event.Ktime(1)
		for len(in) >= 10 {
			op, x := in[0], int64(binary.LittleEndian.Uint64(in[1:]))
			in = in[9:]
			if at += event.Ktime(x >> (op % 60)); op&128 != 0 {
				at = event.Ktime(x)
			}
			e := event.Event{Time: at, Kind: event.Kind(1 + op%5), Reason: event.Reason(x), Cause: event.Cause(x), Ptr: uint64(x & 7), Lifetime: time.Duration(x), HasLifetime: op&8 != 0, NetNS: event.NetNS(x & 31),
				Orig: event.Tuple{Proto: uint8(x), Dport: uint16(x)}, Status: event.Status(x)}
			if op&16 != 0 {
				e.Orig.Src, e.Orig.Dst = netip.AddrFrom4([4]byte{10, 0, 0, byte(x)}), netip.AddrFrom4([4]byte{10, 9, 0, byte(x >> 8)})
			}
			switch op % 11 {
			case 0:
				g.Table(at, Table{NetNS: e.NetNS, Entries: uint64(x), Max: uint64(x >> 3)})
			case 1:
				g.Loss(Loss{From: event.Ktime(x), To: at, Lost: uint64(x & 3)})
			case 2:
				g.Status(Status{Time: at, Ptr: e.Ptr, Orig: e.Orig, Bits: e.Status})
			case 3:
				g.Entry(&e)
			case 4:
				g.Found(&agg.Finding{ID: string(rune(op)), Class: "scan", State: agg.Confirmed, First: time.Unix(0, x), Last: time.Unix(0, int64(at)), Source: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(x)}), 28)})
			default:
				g.Event(&e)
			}
		}
		d := g.Data()
		if doc := htmlOf(t, d, d); strings.Contains(doc, "NaN") || strings.Contains(doc, "Inf") || len(d.Columns) > maxColumns {
			t.Errorf("%d columns, or a number that is none", len(d.Columns))
		}
		markdownOf(t, d, d)
	})
}

// A namespace that is not there any more holds nothing, whoever tells the ends of its
// entries; what lives on elsewhere stays.
func TestGone(t *testing.T) {
	p := newPlay(Options{})
	p.g.State(p.at, []agg.TableState{{NetNS: 4026532000, Name: "a", Entries: 1, Max: 9}, {NetNS: 7, Entries: 0, Max: 9}}, agg.Loss{})
	p.open(tupleOf(event.ProtoTCP, "10.0.0.1", "10.9.0.1", 1, 80))
	p.g.Entry(&event.Event{Time: p.at, Kind: event.New, NetNS: 8, Orig: tupleOf(event.ProtoTCP, "10.0.0.1", "10.9.0.1", 1, 80)})
	p.wait(time.Second)
	p.g.State(p.at, []agg.TableState{{NetNS: 7, Max: 9}}, agg.Loss{})
	p.wait(time.Second)
	p.g.State(p.at, []agg.TableState{{NetNS: 7, Max: 9}}, agg.Loss{})
	d := p.g.Data()
	left := map[event.NetNS]uint32{}
	for _, x := range d.Tables {
		left[x.NetNS] = x.Columns[len(x.Columns)-1].Total
	}
	if !maps.Equal(left, map[event.NetNS]uint32{4026532000: 0, 8: 1}) {
		t.Errorf("left: %v", left)
	}
	if len(d.Marks) != 1 || d.Marks[0].Kind != Gone || d.Marks[0].Text != "a is gone, with 1 entry" || d.Tables[0].Name != "a" || !d.Tables[0].Counted {
		t.Errorf("%+v", d.Marks)
	}
}

// An end without a lifetime gets that between its insert and it.
func TestLifetime(t *testing.T) {
	p := newPlay(Options{})
	e := p.open(tupleOf(event.ProtoUDP, "10.0.0.1", "10.9.0.1", 1, 53))
	p.wait(3 * time.Second)
	e.Time, e.Kind, e.Cause = p.at, event.Destroy, event.TimeoutGC
	p.g.Event(&e)
	d := p.g.Data()
	if c := d.Columns[len(d.Columns)-1]; c.Lives[21] != 1 || d.medianLife() != 21 { // 2^21 us = 2.1 s
		t.Errorf("%v, median %d", c.Lives, d.medianLife())
	}
}

// What the kernel's counters say of all tables is beside what was traced, and where they
// differ that is said first; a side that is not known is no difference.
func TestBalance(t *testing.T) {
	row := func(ns event.NetNS, c agg.Counter, traced, kernel int64) agg.BalanceRow {
		d := traced - kernel
		return agg.BalanceRow{NetNS: ns, Counter: c, Traced: &traced, Kernel: &kernel, Difference: &d}
	}
	half := row(1, agg.CounterInvalid, 0, 9)
	half.Traced, half.Difference = nil, nil
	for want, rows := range map[string][]agg.BalanceRow{
		"": {half},
		"The kernel's own counters from 19:38:01 to 19:38:09 say what was traced: drop 24, early_drop 0.":                                               {row(1, agg.CounterDrop, 20, 20), row(2, agg.CounterDrop, 4, 4), row(1, agg.CounterEarlyDrop, 0, 0), half},
		"The kernel's own counters from 19:38:01 to 19:38:09 differ from what was traced: drop 20 traced, 24 by the kernel. The same are early_drop 3.": {row(1, agg.CounterDrop, 20, 24), row(1, agg.CounterEarlyDrop, 3, 3)},
		"The kernel's own counters from 19:38:01 to 19:38:09 differ from what was traced: insert_failed 1 traced, 0 by the kernel.":                     {row(1, agg.CounterInsertFailed, 1, 0)},
	} {
		p := newPlay(Options{})
		p.open(tupleOf(event.ProtoTCP, "10.0.0.1", "10.0.0.2", 1, 2))
		p.g.Balance(rows, testClock.Mono+event.Ktime(time.Second), testClock.Mono+event.Ktime(9*time.Second))
		d := p.g.Data()
		if got := d.balanceSays(); got != want {
			t.Errorf("says %q, want %q", got, want)
		}
		if want != "" && !slices.Contains(d.trustSays(), want) {
			t.Error("it is not said")
		}
	}
}
