package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Places of the flow of lost packets.
const (
	flowRows  = 8 // in each of its three ranks
	flowH     = 300
	flowGap   = 6
	flowBlock = 16 // wide
	flowRoom  = 190
)

// flow is packets from a reason over a source to a destination.
type flow struct {
	at [3]string
	n  uint64
}

// block is one place of a rank.
type block struct {
	name string
	n    uint64
	y, h float64
	used [2]float64 // of its height, by links that come and that go
}

// drops are the packets lost: why, whose, and where to.
func (d *doc) drops() {
	x := d.data
	d.begin("drops", "Packets lost")
	text := x.dropsSay()
	d.say(text)
	if x.lostPackets() > 0 {
		flows := x.flows()
		d.sankey(flows, text)
		d.Numbers("drops", "reason", "source", "destination", "#packets")
		for _, f := range flows {
			d.Row(f.at[0], f.at[1], f.at[2], f.n)
		}
		d.Put(markup.EndNumbers)
	}
	d.reasons()
	d.evictions()
	d.Put(endFigure)
}

func (d *Data) dropsSay() string {
	if !d.tellsDrops() {
		return "Whether packets were lost is not known from this capture: one in text, or of the backend netlink, tells of entries only." + d.evictedSays()
	}
	n := d.lostPackets()
	if n == 0 {
		return "Conntrack lost no packet in this capture." + d.evictedSays()
	}
	r, first := d.reason(), d.Ledger.Drops
	at, most := d.highest(droppedOf)
	text := fmt.Sprintf("%s: %s of them (%s) for %s", markup.Plural(n, "packet was lost", "packets were lost"), count(r.Count), markup.Percent(r.Count, n), r.Reason)
	text += fmt.Sprintf(", most at %s with %s a second.", d.moment(d.at(at)), markup.Rate(d.perSecond(most)))
	if len(first) > 0 {
		by := d.losers()
		text += fmt.Sprintf(" Hit most: %s with %s (%s).", by[0].name, count(by[0].n), markup.Percent(by[0].n, n))
	}
	return text + d.evictedSays()
}

func (d *Data) evictedSays() string {
	n := d.sum(evictedOf)
	if n == 0 {
		return ""
	}
	return " " + markup.Plural(n, "entry was evicted", "entries were evicted") + " to make room for others."
}

// reason is what most packets were lost for.
func (d *Data) reason() (out agg.ReasonCount) {
	for _, r := range d.Totals.Drop {
		if !r.Reason.IsRuleset() && r.Count > out.Count {
			out = r
		}
	}
	return out
}

// losers are the sources that lost packets, most first.
func (d *Data) losers() []block {
	return rank(d.Ledger.Drops, func(r *agg.DropRow) string { return view.AddrText(r.Src) })
}

// rank sums rows by a name, the largest first.
func rank(rows []agg.DropRow, name func(*agg.DropRow) string) (out []block) {
	sums := map[string]uint64{}
	for i := range rows {
		sums[name(&rows[i])] += rows[i].Count
	}
	for k, n := range sums {
		out = append(out, block{name: k, n: n})
	}
	slices.SortFunc(out, func(a, b block) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name)) })
	return out
}

// flows sums drops by what has a place, everything else as others.
func (d *Data) flows() (out []flow) {
	names := [3]func(*agg.DropRow) string{
		func(r *agg.DropRow) string { return r.Reason.String() },
		func(r *agg.DropRow) string { return view.AddrText(r.Src) },
		func(r *agg.DropRow) string {
			t := event.Tuple{Proto: r.Proto}
			if t.IsICMP() {
				return view.AddrText(r.Dst) + " " + event.ProtoName(r.Proto)
			}
			return view.TargetText(&agg.Target{Addr: r.Dst, Proto: r.Proto, Port: r.Dport})
		},
	}
	var places [3]map[string]bool
	for i, name := range names {
		ranked := rank(d.Ledger.Drops, name)
		places[i] = map[string]bool{}
		for _, b := range ranked[:min(flowRows, len(ranked))] {
			places[i][b.name] = true
		}
	}
	sums := map[[3]string]uint64{}
	for i := range d.Ledger.Drops {
		r := &d.Ledger.Drops[i]
		var at [3]string
		for k, name := range names {
			if at[k] = name(r); !places[k][at[k]] {
				at[k] = "others"
			}
		}
		sums[at] += r.Count
	}
	if n := d.Ledger.DropsOther.Count; n > 0 {
		sums[[3]string{"others", "others", "others"}] += n
	}
	for at, n := range sums {
		out = append(out, flow{at, n})
	}
	slices.SortFunc(out, func(a, b flow) int { return cmp.Or(cmp.Compare(b.n, a.n), slices.Compare(a.at[:], b.at[:])) })
	return out
}

// sankey draws flows between three ranks of blocks.
func (d *doc) sankey(flows []flow, text string) {
	var ranks [3][]*block
	at := [3]map[string]*block{{}, {}, {}}
	all := uint64(0)
	for _, f := range flows {
		all += f.n
		for i, name := range f.at {
			if at[i][name] == nil {
				at[i][name] = &block{name: name}
				ranks[i] = append(ranks[i], at[i][name])
			}
			at[i][name].n += f.n
		}
	}
	for _, r := range ranks {
		slices.SortFunc(r, func(a, b *block) int {
			if (a.name == "others") != (b.name == "others") {
				return map[bool]int{true: 1, false: -1}[a.name == "others"]
			}
			return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name))
		})
		y, room := headroom+4., flowH-float64(flowGap*(len(r)-1))
		for _, b := range r {
			b.y, b.h = y, room*float64(b.n)/float64(all)
			y += b.h + flowGap
		}
	}
	d.open("drops", headroom+flowH+14, "Packets lost by reason, source and destination", text)
	xs := [3]float64{flowRoom, (chartW - flowBlock) / 2, chartW - flowRoom - flowBlock}
	for i, title := range []markup.Text{"reason", "source", "destination"} {
		d.Put(`<text class="mid" x="{}" y="{}">{}</text>`, xs[i]+flowBlock/2, headroom-6, title)
	}
	for k := range 2 {
		d.links(flows, k, at, xs, all)
	}
	for i, r := range ranks {
		for _, b := range r {
			d.Put(`<rect class="stub" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>`, xs[i], b.y, flowBlock, max(1, b.h), b.name, count(b.n))
			x, class := xs[i]+flowBlock+6, markup.Text("ink")
			if i == 0 {
				x, class = xs[i]-6, "ink end"
			}
			if b.h >= 9 || len(r) <= 4 {
				d.Put(`<text class="{}" x="{}" y="{}" dy=".32em">{}</text>`, class, x, b.y+b.h/2, b.name+" "+count(b.n))
			}
		}
	}
	d.Put(`</svg></div>`)
}

// links draws the bands between two ranks, in the order of their blocks.
func (d *doc) links(flows []flow, k int, at [3]map[string]*block, xs [3]float64, all uint64) {
	sums := map[[2]string]uint64{}
	for _, f := range flows {
		sums[[2]string{f.at[k], f.at[k+1]}] += f.n
	}
	keys := make([][2]string, 0, len(sums))
	for key := range sums {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(at[k][a[0]].y, at[k][b[0]].y), cmp.Compare(at[k+1][a[1]].y, at[k+1][b[1]].y))
	})
	x0, x1 := xs[k]+flowBlock, xs[k+1]
	mid := (x0 + x1) / 2
	for _, key := range keys {
		a, b := at[k][key[0]], at[k+1][key[1]]
		share := float64(sums[key])
		ha, hb := a.h*share/float64(a.n), b.h*share/float64(b.n)
		ya, yb := a.y+a.used[1], b.y+b.used[0]
		a.used[1] += ha
		b.used[0] += hb
		d.Put(`<path class="link" d="M{} {}C{} {} {} {} {} {}V{}C{} {} {} {} {} {}z"><title>{}</title></path>`, x0, ya, mid, ya, mid, yb, x1, yb, yb+max(.7, hb), mid, yb+hb, mid, ya+ha, x0, ya+max(.7, ha),
			key[0]+" → "+key[1]+": "+count(sums[key]))
	}
}

// reasons are what the kernel did and what to do about it.
func (d *doc) reasons() {
	x := d.data
	if len(x.Totals.Drop)+len(x.Totals.Destroy) == 0 {
		return
	}
	if len(x.Totals.Drop) > 0 {
		d.Put(`<details id="reasons-n" open><summary>By reason</summary>`)
		d.List("reasons", "By reason", "reason", "#packets", "the kernel", "what to do")
		for _, r := range x.Totals.Drop {
			kernel, do := "", ""
			if i := r.Reason.Info(); i != nil {
				kernel, do = i.Kernel, i.Do
			}
			d.Row(r.Reason.String(), r.Count, markup.Prose(kernel), markup.Prose(do))
		}
		d.Put(markup.EndList + `</details>`)
	}
	if len(x.Totals.Destroy) > 0 {
		d.Put(`<details id="causes-n"><summary>How entries ended</summary>`)
		d.List("causes", "How entries ended", "cause", "#entries", "the kernel")
		for _, c := range x.Totals.Destroy {
			kernel := ""
			if int(c.Cause) < len(event.Causes) {
				kernel = event.Causes[c.Cause].Kernel
			}
			d.Row(c.Cause.String(), c.Count, markup.Prose(kernel))
		}
		d.Put(markup.EndList + `</details>`)
	}
}

// evictions are whose entries went for whose packets.
func (d *doc) evictions() {
	rows := d.data.Ledger.Evictions
	if len(rows) == 0 {
		return
	}
	const most = 20
	d.Put(`<details id="evictions-n" open><summary>Evicted for whom</summary>`)
	d.List("evictions", "Evicted for whom", "whose entry", "#entries", "for a packet of")
	shown := rows[:min(most, len(rows))]
	rest := d.data.Ledger.EvictionsOther.Count
	for _, r := range rows[len(shown):] {
		rest += r.Count
	}
	for _, r := range shown {
		d.Row(view.AddrText(r.Victim), r.Count, view.AddrText(r.Culprit))
	}
	if rest > 0 {
		d.Row("all others", rest, "")
	}
	d.Put(markup.EndList + `</details>`)
}

const icicleH = 46 // of a row

// holders are who held the table when it held most.
func (d *doc) holders() {
	t := d.data.main()
	if t == nil || t.Held == nil || t.Held.N == 0 {
		return
	}
	d.begin("holders", "What held the table")
	text := d.data.holdersSay(t)
	d.say(text)
	d.open("holders", 5*icicleH+4, "Entries by protocol, source, state and port", text)
	root := *t.Held
	root.Name = t.Text()
	d.icicle(&root, 0, 2, chartW-4, 0)
	d.Put(`</svg></div>`)
	d.Numbers("holders", "protocol", "source", "state", "port", "#entries", "#share")
	d.holderRows(t.Held, nil, t.Held.N)
	d.Put(markup.EndNumbers + endFigure)
}

var icicleFill = [...]markup.Text{"c6", "c1", "c4", "c3", "c5"}

// icicle draws a node and, below it, its parts.
func (d *doc) icicle(n *Holder, depth int, x, w float64, shade int) {
	y := 2 + depth*icicleH
	d.Put(`<rect class="block {}" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>`, icicleFill[depth], x, y, w, icicleH-2, n.Name, count(n.N))
	if room := int(w/7) - 1; room >= 3 {
		d.Put(`<text class="onc" x="{}" y="{}">{}</text>`, x+4, y+18, cut(n.Name, room))
		if room >= len(count(n.N)) {
			d.Put(`<text class="onc" x="{}" y="{}">{}</text>`, x+4, y+34, count(n.N))
		}
	}
	for i, p := range n.Parts {
		pw := w * float64(p.N) / float64(n.N)
		if pw >= .4 {
			d.icicle(p, depth+1, x, pw, i)
		}
		x += pw
	}
}

// cut shortens a name to so many characters.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(1, n-1)]) + "…"
}

func (d *doc) holderRows(n *Holder, path []string, all uint64) {
	if len(n.Parts) == 0 {
		cells := make([]any, 0, 6)
		for i := range breadth {
			if i < len(path) {
				cells = append(cells, path[i])
			} else {
				cells = append(cells, "")
			}
		}
		d.Row(append(cells, n.N, markup.Number(markup.Percent(n.N, all)))...)
		return
	}
	for _, p := range n.Parts {
		d.holderRows(p, append(slices.Clone(path), p.Name), all)
	}
}

func (d *Data) holdersSay(t *TableData) string {
	h := t.Held
	text := fmt.Sprintf("At %s, with %s", d.moment(t.HeldAt), markup.Plural(h.N, "entry", "entries"))
	if h.N < t.Most {
		text += fmt.Sprintf(" (the most were %s)", count(t.Most))
	}
	p := h.Parts[0]
	text += fmt.Sprintf(", %s held %s", p.Name, markup.Percent(p.N, h.N))
	if len(p.Parts) > 0 {
		s := p.Parts[0]
		text += fmt.Sprintf("; %s alone held %s (%s)", s.Name, count(s.N), markup.Percent(s.N, h.N))
		if len(s.Parts) > 0 {
			text += fmt.Sprintf(", of which %s were “%s”", count(s.Parts[0].N), s.Parts[0].Name)
		}
	}
	return text + "."
}
