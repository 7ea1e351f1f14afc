package page

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

const findingRows = 20

// open is how many findings are not cleared.
func (d *doc) open() (n uint64) {
	for i := range d.s.Findings {
		if d.s.Findings[i].State != agg.Cleared {
			n++
		}
	}
	return n
}

// findings are incidents, the open ones first.
func (d *doc) findings() {
	all := slices.Clone(d.s.Findings)
	slices.SortStableFunc(all, func(a, b agg.Finding) int {
		if (a.State == agg.Cleared) != (b.State == agg.Cleared) {
			if a.State == agg.Cleared {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(agg.Urgency(a.Severity), agg.Urgency(b.Severity)), b.Last.Compare(a.Last))
	})
	d.begin("findings", "Findings")
	d.Put(`{} open, {} of the last day cleared.</figcaption><ul class="findings">`, d.open(), uint64(len(all))-d.open())
	for i := range all[:min(findingRows, len(all))] {
		d.finding(&all[i])
	}
	d.Put(`</ul>`)
	if rest := len(all) - findingRows; rest > 0 {
		d.Put(`<p class="soft">and {}: <a href="api/v1/findings">api/v1/findings</a></p>`, markup.Plural(uint64(rest), "more", "more"))
	}
	d.Put(endFigure)
}

func (d *doc) finding(f *agg.Finding) {
	class := markup.Text("lv1")
	switch {
	case f.State == agg.Cleared:
		class = "lv0"
	case f.Severity == agg.Page:
		class = "lv3"
	case f.Severity == agg.Feed:
		class = "lv2"
	}
	d.Put(`<li class="{}"><b>{}</b> <span class="word">{}</span> <span class="soft">`, class, view.Name(f.Class), view.Name(f.State))
	if f.Shape != "" {
		d.Put(`{}, `, view.Name(f.Shape))
	}
	if f.Source.IsValid() {
		d.Put(`{}, `, view.SourceText(f.Source))
	}
	if f.NetNS != 0 {
		d.Put(`netns {}, `, d.netnsName(f.NetNS))
	}
	d.Put(`{} to {} UTC</span><br>{}`, f.First.UTC().Format("01-02 15:04:05"), markup.Clock(f.Last), markup.Sentence(f.Why))
	if f.WhyNotBenign != "" {
		d.Put(` <span class="soft">{}</span>`, markup.Sentence(f.WhyNotBenign))
	}
	d.listed(f)
	if f.Recording != "" {
		d.Put(` <span class="soft">Recorded: <code>ctsight report --from {}</code></span>`, view.Text(f.Recording))
	}
	d.Put(` <code>{}</code></li>`, view.Name(f.ID)) // for ctsight explain
}

// listed says what a block list makes of an incident that is confirmed.
func (d *doc) listed(f *agg.Finding) {
	if f.State != agg.Confirmed || !f.Source.IsValid() {
		return
	}
	if why := f.Unlisted(d.s.At); why != "" {
		d.Put(` <span class="soft">Block lists do not take it: {}.</span>`, markup.Sentence(why))
		return
	}
	d.Put(` <span class="soft">Block lists take it until {} UTC.</span>`, f.Expires.UTC().Format("01-02 15:04:05"))
}
