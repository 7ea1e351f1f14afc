package demo

import (
	_ "embed"
	"html/template"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/ctsight/ctsight/internal/svg"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// pageView is what the template shows: strings and drawings, nothing to work
// out. The template escapes the strings; the drawings escape their own.
type pageView struct {
	Kernel, Backend, Start, Length, Verdict string
	Balanced                                bool
	Rate, Fill                              template.HTML
	RateSays, FillSays, DropSays            string
	Skipped                                 string
	Drops                                   []dropBar
	Evictions                               []roleEviction
	Balance                                 [][4]string
	Truth                                   []TruthRow
	Loss                                    string
	Next                                    []struct{ Command, What string }
}

// dropBar is a source's losses: the bar is the share of its packets.
type dropBar struct {
	Source, Reason  string
	Lost, Of, Share uint64
	Bar             template.HTML
}

// WritePage writes the demo as one page of HTML: no network, no script. Equal
// data gives equal bytes.
func (d *Data) WritePage(w io.Writer) error {
	v := pageView{
		Kernel: clean(d.Kernel), Backend: clean(d.Backend), Verdict: d.verdict(), Balanced: d.Residual() == 0,
		Start: d.Start.UTC().Format("2006-01-02 15:04:05 UTC"), Length: short(d.Length),
		Rate: d.rateChart(), Fill: d.fillChart(), Skipped: clean(d.Skipped),
		Evictions: d.evictionsByRole(), Truth: d.Truth, Next: next,
	}
	v.RateSays, v.FillSays, v.DropSays = d.rateSays(), d.fillSays(), d.dropSays()
	for _, c := range d.lostBy() {
		of := c.Lost + c.New
		v.Drops = append(v.Drops, dropBar{Source: who(c.Source), Reason: lossText(c.Reasons), Lost: c.Lost, Of: of,
			Share: 100 * c.Lost / of, Bar: bar(c.Lost, of)})
	}
	for _, b := range d.balanceRows() {
		v.Balance = append(v.Balance, [4]string{b.Counter.String(), number(b.Traced), number(b.Kernel), number(b.Difference)})
	}
	if d.Doc != nil {
		v.Loss = itoa(d.Doc.Loss.Seen) + " records of ours seen, " + itoa(d.Doc.Loss.Lost) + " lost."
	}
	return pageTemplate.Execute(w, v)
}

// rateSays is the finding of the first picture.
func (d *Data) rateSays() string {
	if len(d.Burst) == 0 {
		return ""
	}
	c := d.Burst[0]
	s := who(c.Source) + " makes " + perSecond(average(c)) + " on average, and " + perSecond(peakRate(c)) + " in its worst 10 ms."
	if len(d.Scan) > 0 {
		s += " " + who(d.Scan[0].Source) + " asks " + strconv.Itoa(d.Scan[0].Ports) + " ports; " + itoa(d.Scan[0].Reset) +
			" entries are gone with the reset that answers them, " + portCount(d.Open) + "."
	}
	return s
}

func portCount(open []uint16) string {
	if len(open) == 0 {
		return "none is open"
	}
	return strconv.Itoa(len(open)) + " are open (" + portList(open) + ")"
}

func (d *Data) fillSays() string {
	if d.Skipped != "" {
		return ""
	}
	s := "Before the last act it is emptied. The limit is " + strconv.Itoa(d.Limit)
	if d.Was != d.Limit {
		s += " there, and was " + strconv.Itoa(d.Was) + " before"
	}
	return s + ". From " + short(d.FullAt) + " on the table is full: each new entry needs the place of another, or its packet is lost."
}

func (d *Data) dropSays() string {
	lost, of := d.bystanders()
	if lost == 0 {
		return ""
	}
	return "The flood is of one source; the customers lost " + itoa(lost) + " of " + itoa(of) + " packets to it."
}

// entries is the fill of the table at the end of every bin, from the events
// alone: what went in without what went out.
func entries(bins []Bin) []uint64 {
	out := make([]uint64, len(bins))
	var n int64
	for i, b := range bins {
		n += int64(b.New) - int64(b.Gone)
		out[i] = uint64(max(0, n))
	}
	return out
}

// perBin is new connections per second.
func perBin(bins []Bin) []uint64 {
	out := make([]uint64, len(bins))
	for i, b := range bins {
		out[i] = b.New * uint64(time.Second/binWidth)
	}
	return out
}

func lostPerBin(bins []Bin) []uint64 {
	out := make([]uint64, len(bins))
	for i, b := range bins {
		out[i] = b.Lost * uint64(time.Second/binWidth)
	}
	return out
}

// rateChart is new entries and lost packets a second, on a logarithmic scale:
// a gust is a hundred times what is ordinary.
func (d *Data) rateChart() template.HTML {
	most := uint64(100)
	rates, lost := perBin(d.Bins), lostPerBin(d.Bins)
	for _, n := range slices.Concat(rates, lost) {
		most = max(most, n)
	}
	c := newChart(d.Length, svg.Log(10, float64(most)))
	c.acts(d.Acts)
	c.axis("/s")
	c.area("new", rates)
	c.peaks("lost", lost)
	return c.svg("New connections and lost packets a second")
}

// fillChart is the fill of the table with its limit.
func (d *Data) fillChart() template.HTML {
	fill := entries(d.Bins)
	most := slices.Max(append(fill, 1))
	if d.Skipped == "" && d.Limit > 0 {
		most = max(most, uint64(d.Limit))
	}
	c := newChart(d.Length, svg.Linear(most))
	c.acts(d.Acts)
	c.axis("")
	c.area("fill", fill)
	if d.Skipped == "" && d.Limit > 0 {
		from := d.FullAt
		for _, a := range d.Acts {
			if a.From <= d.FullAt && d.FullAt <= a.To {
				from = a.From
			}
		}
		c.limit(from, uint64(d.Limit))
	}
	return c.svg("Entries in the table")
}
