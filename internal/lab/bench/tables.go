package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
)

// The part of the document that is ours to write.
const (
	beginMark = "<!-- bench: begin, written by make bench -->"
	endMark   = "<!-- bench: end -->"
)

// gated is the tap the gate is about, under these kinds of traffic.
const gated = "ctsight"

var gatedTraffic = []string{"local", "forward"}

// cost is what a tap adds under one kind of traffic: to the packet that makes
// an entry, and to the removal of an entry. For "none" it is the path itself.
type cost struct{ insert, destroy float64 }

func (c cost) sum() float64 { return c.insert + c.destroy }

// tables are the results of all runs, put together.
type tables struct {
	runs    []measure.Result
	native  *measure.Native // nil: not measured
	gate    float64
	traffic []string
	taps    []string
	added   map[string]map[string]cost // by traffic and tap: mean of the runs
	spread  float64                    // largest difference of two runs, relative to what was measured
}

func newTables(runs []measure.Result, gate float64) (*tables, error) {
	t := &tables{runs: runs, gate: gate, added: map[string]map[string]cost{}}
	for i := range runs {
		of, err := deltas(runs[i].Rounds)
		if err != nil {
			return nil, err
		}
		for _, d := range of {
			t.note(d, float64(len(runs)))
		}
	}
	t.spread = spread(runs)
	return t, nil
}

// delta is one tap against the rounds without one before and after it.
type delta struct {
	traffic, tap string
	cost         cost
}

func deltas(rounds []measure.Round) ([]delta, error) {
	var out []delta
	for i, r := range rounds {
		c := cost{median(r.Insert), median(r.Destroy)}
		if r.Tap == "none" {
			if i+1 == len(rounds) || rounds[i+1].Traffic != r.Traffic { // the last of its kind
				out = append(out, delta{r.Traffic, r.Tap, c})
			}
			continue
		}
		if i == 0 || i+1 == len(rounds) || rounds[i-1].Tap != "none" || rounds[i+1].Tap != "none" {
			return nil, fmt.Errorf("round %d, tap %s, is not between two without a tap", i, r.Tap)
		}
		before, after := rounds[i-1], rounds[i+1]
		out = append(out, delta{r.Traffic, r.Tap, cost{
			c.insert - (median(before.Insert)+median(after.Insert))/2,
			c.destroy - (median(before.Destroy)+median(after.Destroy))/2,
		}})
	}
	return out, nil
}

// note adds one of n results.
func (t *tables) note(d delta, n float64) {
	if t.added[d.traffic] == nil {
		t.added[d.traffic] = map[string]cost{}
		t.traffic = append(t.traffic, d.traffic)
	}
	if !slices.Contains(t.taps, d.tap) && d.tap != "none" {
		t.taps = append(t.taps, d.tap)
	}
	c := t.added[d.traffic][d.tap]
	t.added[d.traffic][d.tap] = cost{c.insert + d.cost.insert/n, c.destroy + d.cost.destroy/n}
}

// spread compares round with round of the first run and the others.
func spread(runs []measure.Result) (worst float64) {
	for i := range runs[0].Rounds {
		for _, other := range runs[1:] {
			a, b := runs[0].Rounds[i], other.Rounds[i]
			for _, p := range [][2][]float64{{a.Insert, b.Insert}, {a.Destroy, b.Destroy}} {
				x, y := median(p[0]), median(p[1])
				worst = max(worst, math.Abs(x-y)/x)
			}
		}
	}
	return worst
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// verdict is an error when the gate is exceeded or runs do not agree.
func (t *tables) verdict() error {
	var errs []error
	for _, traffic := range gatedTraffic {
		c, ok := t.added[traffic][gated]
		if ok && c.sum() > t.gate {
			errs = append(errs, fmt.Errorf("%s traffic: %.0f instructions per connection, the gate is %.0f", traffic, c.sum(), t.gate))
		}
	}
	if t.spread > 0.01 {
		errs = append(errs, fmt.Errorf("runs differ by %.2f %%, at most 1 %% is fair", 100*t.spread))
	}
	return errors.Join(errs...)
}

// names of taps, as the reader of the document should see them.
var names = map[string]string{
	"none":            "no tap: the path itself",
	"fentry-empty":    "empty fentry on confirm",
	"fexit-empty":     "empty fexit on confirm",
	"ctsight":         "**ctsight**",
	"ctsight-confirm": "- only `__nf_conntrack_confirm`",
	"ctsight-alloc":   "- only `__nf_conntrack_alloc`",
	"ctsight-destroy": "- only `nf_ct_helper_destroy` (and the flush around it)",
	"ctsight-rare":    "- all hooks but these three",
	"ctsight-invalid": "ctsight with `--invalid`",
	"ctsight-audit":   "ctsight with audit counters",
	"ctsight-kprobe":  "ctsight, kprobe backend",
	"ctnetlink":       "ctnetlink listener, not read",
	"conntrack-E":     "`conntrack -E`",
	"ti-mo":           "ti-mo/conntrack `Listen`",
	"bpftrace-count":  "`bpftrace`, counts per source",
	"bpftrace-print":  "`bpftrace`, a line per event",
}

func name(tap string) string {
	if n := names[tap]; n != "" {
		return n
	}
	return tap
}

// markdown is the machine-made part.
func (t *tables) markdown() string {
	var b strings.Builder
	first := t.runs[0]
	fmt.Fprintf(&b, "Kernel %s, clocksource %s, %d boots", first.Kernel, first.Clocksource, len(t.runs))
	if len(t.runs) > 1 {
		fmt.Fprintf(&b, " that differ by at most %.3f %%", 100*t.spread)
	}
	fmt.Fprintf(&b, ".\n\n### Added to the traffic, instructions per connection\n\n")
	t.addedTable(&b)
	b.WriteString("\n")
	for _, traffic := range gatedTraffic {
		if c, ok := t.added[traffic][gated]; ok {
			word := "passed"
			if c.sum() > t.gate {
				word = "**exceeded**"
			}
			fmt.Fprintf(&b, "Gate, %s: %.0f of %.0f, %s.", traffic, c.sum(), t.gate, word)
			if peer, ok := t.added[traffic]["ctnetlink"]; ok {
				fmt.Fprintf(&b, " A ctnetlink listener adds %.1f times as much.", peer.sum()/c.sum())
			}
			b.WriteString("\n")
		}
	}
	if len(first.Readers) > 0 {
		b.WriteString("\n### Reading, instructions per event\n\n")
		readerTable(&b, first.Readers)
	}
	if len(first.Deliveries) > 0 {
		b.WriteString("\n### Completeness, events told of events true\n\n")
		deliveryTable(&b, first.Deliveries)
	}
	if len(first.Expiry) > 0 {
		b.WriteString("\n### Destroyed by the garbage collector, instructions per entry\n\n")
		expiryTable(&b, first.Expiry)
	}
	if t.native != nil {
		b.WriteString("\n### The reader on the machine itself\n\n")
		nativeTable(&b, t.native)
	}
	return b.String()
}

func (t *tables) addedTable(b *strings.Builder) {
	b.WriteString("| tap |")
	for _, k := range t.traffic {
		fmt.Fprintf(b, " %s: insert | destroy | both | x ctsight |", k)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|---:|---:|---:|", len(t.traffic)) + "\n")
	for _, tap := range append([]string{"none"}, t.taps...) {
		fmt.Fprintf(b, "| %s |", name(tap))
		for _, k := range t.traffic {
			c, ok := t.added[k][tap]
			if !ok {
				b.WriteString(" | | | |")
				continue
			}
			sign := "+"
			if tap == "none" {
				sign = ""
			}
			times := ""
			if ours, ok := t.added[k][gated]; ok && tap != "none" {
				times = ratio(c.sum(), ours.sum())
			}
			fmt.Fprintf(b, " %s | %s | %s | %s |", number(sign, c.insert), number(sign, c.destroy), number(sign, c.sum()), times)
		}
		b.WriteString("\n")
	}
}

// number rounds; what is within a few instructions of nothing is the noise of
// timer interrupts.
func number(sign string, v float64) string {
	if sign != "" && math.Abs(v) < 20 {
		return "0"
	}
	if v < 0 {
		sign = ""
	}
	return fmt.Sprintf("%s%.0f", sign, v)
}

// ratio says how often ours is in it.
func ratio(v, ours float64) string {
	if v >= 10*ours {
		return fmt.Sprintf("%.0f", v/ours)
	}
	return fmt.Sprintf("%.1f", v/ours)
}

func readerTable(b *strings.Builder, readers []measure.Reader) {
	ours := map[string]float64{}
	for _, r := range readers {
		if r.Tap == gated {
			ours[r.Traffic] = r.Insns
		}
	}
	b.WriteString("| reader | traffic | per event | x ctsight |\n|---|---|---:|---:|\n")
	for _, r := range readers {
		if r.Events > 0 && wholeReader(r.Tap) {
			what := name(r.Tap)
			if r.Tap == "ctnetlink" {
				what = "ctnetlink listener, messages not looked at"
			}
			times := ""
			if o := ours[r.Traffic]; o > 0 {
				times = ratio(r.Insns, o)
			}
			fmt.Fprintf(b, "| %s | %s | %.0f | %s |\n", what, r.Traffic, r.Insns, times)
		}
	}
}

// wholeReader leaves out variants that differ in the kernel only.
func wholeReader(tap string) bool { return tap == gated || !strings.HasPrefix(tap, gated) }

// deliveryTable has a row for each tap, with both loads side by side.
func deliveryTable(b *strings.Builder, all []measure.Delivery) {
	var loads, taps []string
	of := map[[2]string]measure.Delivery{}
	head := "| told by |"
	for _, d := range all {
		if !slices.Contains(loads, d.Load) {
			loads = append(loads, d.Load)
			head += fmt.Sprintf(" %s, %d of each: new | destroyed | both |", d.Load, d.Made)
		}
		if !slices.Contains(taps, d.Tap) {
			taps = append(taps, d.Tap)
		}
		of[[2]string{d.Load, d.Tap}] = d
	}
	b.WriteString(head + "\n|---|" + strings.Repeat("---:|---:|---:|", len(loads)) + "\n")
	for _, tap := range taps {
		what := name(tap)
		if tap == "ctnetlink" {
			what = "ctnetlink listener, counts messages"
		}
		fmt.Fprintf(b, "| %s |", what)
		for _, load := range loads {
			d := of[[2]string{load, tap}]
			fmt.Fprintf(b, " %s | %s | **%s** |", share(d.Told.New, d.Made), share(d.Told.Destroyed, d.Made), share(d.Told.New+d.Told.Destroyed, 2*d.Made))
		}
		b.WriteString("\n")
	}
	for _, d := range all {
		if len(d.Delay) == 3 {
			fmt.Fprintf(b, "\n%s, %s: from the event to the count %.1f ms at the median, %.1f at 99 %%, %.1f at worst.\n",
				name(d.Tap), d.Load, float64(d.Delay[0])/1e3, float64(d.Delay[1])/1e3, float64(d.Delay[2])/1e3)
		}
	}
}

func nativeTable(b *strings.Builder, n *measure.Native) {
	fmt.Fprintf(b, "Linux %s, %d CPUs shared with other work; this kernel allows the %s backend.\n\n", n.Kernel, n.CPUs, n.Backend)
	b.WriteString("| source | view | connections/s | CPU per connection, us: median | least | of a CPU | to the counter, ms: median | 99 % | worst |\n" +
		"|---|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, l := range n.Loads {
		fmt.Fprintf(b, "| %s | %s | %d | %.2f | %.2f | %.1f %% |", l.Source, l.View, l.Rate, l.CPU/1e3, l.Least/1e3, 100*l.Share)
		for _, us := range l.Delay {
			fmt.Fprintf(b, " %.1f |", float64(us)/1e3)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for _, source := range slices.Sorted(maps.Keys(n.Idle)) {
		fmt.Fprintf(b, "Idle, %s: %.2f %% of a CPU.\n", source, 100*n.Idle[source])
	}
}

// share rounds down: only all is 100 %.
func share(n, of int) string {
	if n > of {
		return fmt.Sprintf("%d of %d", n, of)
	}
	return fmt.Sprintf("%g %%", math.Floor(1000*float64(n)/float64(of))/10)
}

func expiryTable(b *strings.Builder, rows []measure.Expiry) {
	b.WriteString("| tap | per entry |\n|---|---:|\n")
	var bare float64
	for _, r := range rows {
		if r.Tap == "none" {
			bare = r.Insns
			fmt.Fprintf(b, "| %s | %.0f |\n", name(r.Tap), bare)
			continue
		}
		fmt.Fprintf(b, "| %s | %s |\n", name(r.Tap), number("+", r.Insns-bare))
	}
}

// update puts the tables between the marks of a document.
func (t *tables) update(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	doc, err := replace(string(data), t.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(doc), 0o644)
}

func replace(doc, part string) (string, error) {
	head, rest, ok := strings.Cut(doc, beginMark)
	_, tail, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return "", fmt.Errorf("no part between %q and %q", beginMark, endMark)
	}
	return head + beginMark + "\n\n" + part + "\n" + endMark + tail, nil
}
