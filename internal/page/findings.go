package page

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

const findingRows = 20

const cleared = "cleared"

// open is how many findings are not cleared.
func (d *doc) open() (n uint64) {
	for i := range d.s.Findings {
		if d.s.Findings[i].State != cleared {
			n++
		}
	}
	return n
}

func severity(s string) int {
	if i := slices.Index([]string{"page", "feed", "info"}, s); i >= 0 {
		return i
	}
	return 3
}

// findings are incidents, the open ones first.
func (d *doc) findings() {
	all := slices.Clone(d.s.Findings)
	slices.SortStableFunc(all, func(a, b agg.Finding) int {
		if (a.State == cleared) != (b.State == cleared) {
			if a.State == cleared {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(severity(a.Severity), severity(b.Severity)), b.Last.Compare(a.Last))
	})
	d.begin("findings", "Findings")
	d.put(`{} open, {} of the last day cleared.</figcaption><ul class="findings">`, d.open(), uint64(len(all))-d.open())
	for i := range all[:min(findingRows, len(all))] {
		d.finding(&all[i])
	}
	d.put(`</ul>`)
	if rest := len(all) - findingRows; rest > 0 {
		d.put(`<p class="soft">and {}: <a href="api/v1/findings">api/v1/findings</a></p>`, plural(uint64(rest), "more", "more"))
	}
	d.put(endFigure)
}

func (d *doc) finding(f *agg.Finding) {
	class := markup("lv1")
	switch {
	case f.State == cleared:
		class = "lv0"
	case f.Severity == "page":
		class = "lv3"
	case f.Severity == "feed":
		class = "lv2"
	}
	d.put(`<li class="{}"><b>{}</b> <span class="word">{}</span> <span class="soft">`, class, view.Name(f.Class), view.Name(f.State))
	switch {
	case f.Source.IsSingleIP():
		d.put(`{}, `, f.Source.Addr().String())
	case f.Source.IsValid():
		d.put(`{}, `, f.Source.String())
	}
	if f.NetNS != 0 {
		d.put(`netns {}, `, d.netnsName(f.NetNS))
	}
	d.put(`{} to {} UTC</span><br>{}</li>`, f.First.UTC().Format("01-02 15:04:05"), clock(f.Last), sentence(f.Why))
}
