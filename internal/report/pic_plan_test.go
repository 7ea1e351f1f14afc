package report

import (
	"bytes"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/browser"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/triage"
)

type planned []plan.Conn

func (p planned) All() iter.Seq[plan.Conn]           { return slices.Values(p) }
func (p planned) Window() (event.Ktime, event.Ktime) { return 0, event.Ktime(10 * time.Minute) }
func (p planned) Pools() []plan.Pool                 { return nil }
func (p planned) Read() event.Ktime                  { return 0 }
func (p planned) Counts() []plan.Count               { return nil }

// made is a plan of ten connections a second that wait 30 s, and so many more that wait
// two minutes, under a limit.
func made(t *testing.T) *Plan {
	t.Helper()
	var in planned
	for i := range 6000 {
		for _, c := range []plan.Conn{{Proto: event.ProtoUDP}, {Proto: event.ProtoTCP, State: event.TCPSynSent}} {
			c.Start, c.ID = event.Ktime(i)*event.Ktime(100*time.Millisecond), uint64(2*i)+uint64(c.Proto)<<32
			life := 30 * time.Second
			if c.Proto == event.ProtoTCP {
				life = 2 * time.Minute
			}
			if end := c.Start + event.Ktime(life); end < event.Ktime(10*time.Minute) {
				c.End, c.Cause = end, event.TimeoutGC
			}
			in = append(in, c)
		}
	}
	r := plan.Read(in, plan.Kernel{Max: 4000, Timeouts: plan.DefaultTimeouts()})
	d, err := plan.Make(r, plan.WhatIf{}, triage.Memory{})
	if err != nil {
		t.Fatal(err)
	}
	d.From, d.To, d.Source = began, began.Add(10*time.Minute), "x<y>"
	return &Plan{Doc: d, Curves: r.Curves(d)}
}

// The curves of a plan have every replay as a row, today's point where it was measured,
// and say what is needed.
func TestPlanCurves(t *testing.T) {
	p := made(t)
	var b bytes.Buffer
	if err := WritePlanHTML(&b, p); err != nil {
		t.Fatal(err)
	}
	root := parse(t, b.String())
	rows := cells(t, root, "capacity")
	if len(rows) != len(p.Curves[0].Points) {
		t.Fatalf("%d rows of %d replays", len(rows), len(p.Curves[0].Points))
	}
	today := 0
	for i, r := range rows {
		q := &p.Curves[0].Points[i]
		if number(t, r[0]) != q.Max || number(t, r[2]) != q.Run.Peak || number(t, r[4]) != q.Run.Drops || number(t, r[5]) != q.Run.Evicted+q.Run.EvictedGC {
			t.Errorf("row %v of %+v", r, q)
		}
		if r[1] == "today" {
			today++
			if number(t, r[0]) != 4000 || number(t, r[2]) != p.Today.Peak {
				t.Errorf("today is %v, measured %d", r, p.Today.Peak)
			}
		}
	}
	timeouts := cells(t, root, "timeouts")
	for _, r := range timeouts {
		if r[2] == "today" {
			today++
		}
	}
	if today != 3 || len(timeouts) != 10 {
		t.Errorf("%d points of today, %d rows of timeouts", today, len(timeouts))
	}
	// With half of the timeout those that wait for a SYN are half as many.
	for _, want := range []string{"Needed are ", "today&#39;s of 4,000 is enough", "tcp_timeout_syn_sent holds most", "With tcp_timeout_syn_sent = 1m00s the table would have held 9", "plan of x&lt;y&gt;", "net.netfilter.nf_conntrack_max = 4000"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("does not have %q", want)
		}
	}
}

// They are in the report of a capture of which there is a plan, and look as they should.
func TestPlanInBrowser(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	d := incident().g.Data()
	d.Plan = made(t)
	for name, v := range map[string]browser.View{"plan-light": {Width: 1280, Height: 900}, "plan-dark": {Width: 1280, Height: 900, Dark: true}, "plan-narrow": {Width: 360, Height: 740}} {
		p := b.Open(written(t, d, nil), v)
		shots(p, name)
		if n := p.Eval(`document.querySelectorAll("#capacity svg .curve, #timeouts svg .curve").length`); n != 2+3+2+2. { // with their legends
			t.Errorf("%s: %v curves", name, n)
		}
		if s := p.Eval(`getComputedStyle(document.querySelector("#capacity .draw .curve")).stroke`); s == "none" {
			t.Errorf("%s: a curve is not seen", name)
		}
		if w := p.Eval("document.documentElement.scrollWidth"); w != float64(v.Width) {
			t.Errorf("%s: %v pixels wide", name, w)
		}
		for _, x := range p.Problems() {
			t.Error(x)
		}
		if r := p.Requests(); len(r) != 1 {
			t.Errorf("asks for %q", r)
		}
	}
}
