package report

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Pair is a number of two captures.
type Pair struct {
	What          string
	Before, After string
	Change        string // of the second, "" where there is nothing to compare
}

// Compare sets two captures side by side.
func Compare(before, after *Data) []Pair {
	b, a := before, after
	_, bMost := b.highest(newOf)
	_, aMost := a.highest(newOf)
	_, bPeak := b.highest(peakOf)
	_, aPeak := a.highest(peakOf)
	out := []Pair{
		{"length", view.Span(b.Span()), view.Span(a.Span()), ""},
		{"new connections", count(b.Totals.New), count(a.Totals.New), change(float64(b.Totals.New), float64(a.Totals.New))},
		{"new connections a second, on average", markup.Rate(b.mean()), markup.Rate(a.mean()), change(b.mean(), a.mean())},
		{"most a second in a column (" + view.Span(b.Width) + ", " + view.Span(a.Width) + ")", markup.Rate(b.perSecond(bMost)), markup.Rate(a.perSecond(aMost)), change(b.perSecond(bMost), a.perSecond(aMost))},
		{"rate of the busiest 10 ms", count(100 * bPeak), count(100 * aPeak), change(float64(bPeak), float64(aPeak))},
		{"sources", b.sourcesCount(), a.sourcesCount(), change(float64(b.Sources), float64(a.Sources))},
		{"most entries in the table", entriesText(b), entriesText(a), change(float64(entriesMost(b)), float64(entriesMost(a)))},
		{"entries evicted", count(b.sum(evictedOf)), count(a.sum(evictedOf)), change(float64(b.sum(evictedOf)), float64(a.sum(evictedOf)))},
		{"packets lost", lostText(b), lostText(a), ""},
		{"lived, the middle one", medianText(b), medianText(a), ""},
		{"never answered, of those that ended", silentText(b), silentText(a), ""},
		{"findings confirmed", count(b.confirmed()), count(a.confirmed()), ""},
	}
	return out
}

func change(before, after float64) string {
	switch {
	case before == after:
		return "="
	case before == 0 || after == 0:
		return ""
	case after >= 10*before:
		return "×" + markup.Rate(after/before)
	case after > before:
		return "+" + markup.Rate(100*(after/before-1)) + " %"
	}
	return "−" + markup.Rate(100*(1-after/before)) + " %"
}

func entriesMost(d *Data) uint64 {
	if t := d.main(); t != nil {
		return t.Highest()
	}
	return 0
}

func entriesText(d *Data) string {
	t := d.main()
	if t == nil {
		return "0"
	}
	if n, limit := t.fullest(); limit > 0 {
		return count(n) + " of " + count(limit)
	}
	return count(t.Highest())
}

func lostText(d *Data) string {
	if !d.tellsDrops() {
		return "not known"
	}
	return count(d.lostPackets())
}

func medianText(d *Data) string {
	if b := d.medianLife(); b >= 0 {
		return lifeText(b)
	}
	return "not known"
}

func silentText(d *Data) string {
	answered, silent := d.lives()
	s := total(silent[:])
	return markup.Percent(s, s+total(answered[:]))
}

// Share is a source in two captures.
type Share struct {
	Name          string
	Before, After uint64
}

// Shares are the busiest sources of either.
func Shares(before, after *Data) (out []Share) {
	at := map[string]int{}
	take := func(d *Data, of func(*Share) *uint64) {
		for i := range d.Busiest {
			if d.Busiest[i].New == 0 {
				continue // it only lost packets
			}
			name := view.AddrText(d.Busiest[i].Src)
			if _, ok := at[name]; !ok {
				at[name] = len(out)
				out = append(out, Share{Name: name})
			}
			*of(&out[at[name]]) += d.Busiest[i].New
		}
	}
	take(before, func(s *Share) *uint64 { return &s.Before })
	take(after, func(s *Share) *uint64 { return &s.After })
	slices.SortStableFunc(out, func(a, b Share) int {
		return cmp.Or(cmp.Compare(max(b.Before, b.After), max(a.Before, a.After)), cmp.Compare(a.Name, b.Name))
	})
	return out[:min(sourceRows, len(out))]
}

// Shift is a confirmed finding that one of two captures has and the other has not.
type Shift struct {
	New  bool
	Name string
	Why  string
}

// Shifts are the findings that are new or gone; the same is what has class, source and
// target in common.
func Shifts(before, after *Data) (out []Shift) {
	names := func(d *Data) map[string]bool {
		m := map[string]bool{}
		for i := range d.Findings {
			if d.Findings[i].State == agg.Confirmed {
				m[findingName(&d.Findings[i])] = true
			}
		}
		return m
	}
	missing := func(in *Data, from map[string]bool, isNew bool) {
		told := map[string]bool{}
		for i := range in.Findings {
			f := &in.Findings[i]
			name := findingName(f)
			if f.State == agg.Confirmed && !from[name] && !told[name] {
				told[name] = true
				out = append(out, Shift{isNew, name, markup.Sentence(f.Why)})
			}
		}
	}
	missing(after, names(before), true)
	missing(before, names(after), false)
	return out
}

// shareText in the table of shares stands for what is not among the busiest.
func shareText(n uint64) markup.Number {
	if n == 0 {
		return "–"
	}
	return markup.Number(count(n))
}

// compare sets another capture beside this one.
func (d *doc) compare(before *Data) {
	d.Put(`<section id="compare" aria-labelledby="compare-h"><h2 id="compare-h">Before and after</h2><p>Before: {} ({}). After: {} ({}).</p>`,
		view.Text(before.Name), span(before), view.Text(d.data.Name), span(d.data))
	d.List("compare", "Before and after", "", "#before", "#after", "#change")
	for _, p := range Compare(before, d.data) {
		d.Row(p.What, markup.Number(p.Before), markup.Number(p.After), markup.Number(p.Change))
	}
	d.Put(markup.EndList)
	if all := Shares(before, d.data); len(all) > 0 {
		d.Put(`<details id="shares-n" open><summary>Sources, new connections</summary>`)
		d.List("shares", "Sources before and after", "source", "#before", "#after", "#change")
		for _, s := range all {
			d.Row(s.Name, shareText(s.Before), shareText(s.After), markup.Number(change(float64(s.Before), float64(s.After))))
		}
		d.Put(markup.EndList + `<p class="soft">– is not among the first ` + markup.Text(digits(sourceRows)) + `.</p></details>`)
	}
	shifts := Shifts(before, d.data)
	if len(shifts) == 0 {
		d.Put(`<p>No confirmed finding is new or gone.</p>`)
	} else {
		d.List("shifts", "Findings new and gone", "", "finding", "why")
		for _, s := range shifts {
			d.Row(map[bool]string{true: "new", false: "gone"}[s.New], s.Name, markup.Prose(s.Why))
		}
		d.Put(markup.EndList)
	}
	d.Put("</section>\n")
}

func span(d *Data) string {
	if d.Told == 0 {
		return "nothing"
	}
	return d.First.UTC().Format("2006-01-02 15:04:05") + " UTC, " + view.Span(d.Span())
}
