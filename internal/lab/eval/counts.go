package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// A second count of what findings of scans say, from the lines alone: the first entry
// of a source to an endpoint, and what had become of it by the time that the finding was
// told.

// became is what a first contact was from a moment on.
type became struct {
	at   event.Ktime
	what byte // 'r' refused, 'u' unanswered, 'h' half open, 'a' answered
}

type firstContact struct {
	src      netip.Addr
	to       endpoint
	born     event.Ktime
	over     []became
	replied  bool
	answered bool
}

type endpoint struct {
	addr  netip.Addr
	port  uint16
	proto uint8
}

// tau is how long a contact is waited for; it is looked at with the next step of a tenth
// of a second of the wall clock.
const tau = 3 * time.Second

func secondCount(c *capture.Capture) []*firstContact {
	type edge struct {
		src netip.Addr
		to  endpoint
	}
	var all []*firstContact
	firsts, live := map[edge]*firstContact{}, map[uint64]*firstContact{}
	for i := range c.Lines {
		l := &c.Lines[i]
		o := l.Event.Orig
		e := edge{o.Src, endpoint{o.Dst, o.Dport, o.Proto}}
		if o.IsICMP() {
			e.to.port = 0
		}
		if o.Proto == event.ProtoUDP && o.Dport >= 33434 && o.Dport <= 33533 {
			continue // traceroute's count for nothing
		}
		f := live[l.ID]
		switch l.What {
		case 'N':
			if old := firsts[e]; old == nil || l.Event.Time-old.born > event.Ktime(24*time.Hour) {
				f = &firstContact{src: o.Src, to: e.to, born: l.Event.Time}
				firsts[e], live[l.ID] = f, f
				all = append(all, f)
			}
		case 'A', 'R':
			if f == nil {
				break
			}
			f.replied = f.replied || l.Event.Time < f.born+event.Ktime(tau)
			if l.What == 'A' || o.Proto != event.ProtoTCP {
				f.answered = true
				f.over = append(f.over, became{l.Event.Time, 'a'})
			}
		case 'D':
			if delete(live, l.ID); f != nil && !f.answered {
				f.ends(l.Event.Time, l.Event.Status, l.Event.Cause)
			}
		}
	}
	start := event.Ktime(c.Start.UnixNano())
	for _, f := range all {
		f.silence(start)
	}
	return all
}

func (f *firstContact) ends(at event.Ktime, s event.Status, why event.Cause) {
	switch {
	case why == event.TCPRstUnreplied:
		f.over = append(f.over, became{at, 'r'})
	case s&event.SeenReply != 0:
		f.over = append(f.over, became{at, 'h'})
	default:
		f.over = append(f.over, became{at, 'u'})
	}
}

// silence puts in what the timer says.
func (f *firstContact) silence(start event.Ktime) {
	const raster = event.Ktime(100 * time.Millisecond)
	at := (start+f.born+event.Ktime(tau)+raster-1)/raster*raster - start
	if !f.replied && (len(f.over) == 0 || f.over[0].at > at) {
		f.over = slices.Insert(f.over, 0, became{at, 'u'})
	}
}

// checked is how the counts of findings agree with the second count.
type checked struct{ told, equal, left int }

// check compares the findings of scans of single sources, where they are told again: that
// is at the end of a second, when all that has happened until then is in them. A change
// of state is told in the midst of what happens at a moment. What has excused failures in
// it is left out, which were is another rule than this counts by; and what says itself
// that it is not exact.
func check(c *capture.Capture, all []told) (n checked) {
	contacts := secondCount(c)
	state := map[string]string{}
	for i := range all {
		t := &all[i]
		is := fmt.Sprint(t.State, strings.Contains(t.Why, "took up")) // that is told at once too
		changed := state[t.ID] != is
		state[t.ID] = is
		if t.Class != "scan" || changed || !t.Source.IsSingleIP() || t.Time.Nanosecond() != 0 || t.State == agg.Cleared {
			continue
		}
		if t.Evidence.Excused > 0 || t.Evidence.Estimated {
			n.left++
			continue
		}
		n.told++
		var refused, silent, halfOpen uint64
		for _, f := range contacts {
			if f.src != t.Source.Addr() {
				continue
			}
			now := byte(0)
			for _, b := range f.over {
				if b.at <= t.at {
					now = b.what
				}
			}
			switch now {
			case 'r':
				refused++
			case 'u':
				silent++
			case 'h':
				halfOpen++
			}
		}
		if e := &t.Evidence; e.Refused == refused && e.Unanswered == silent && e.HalfOpen == halfOpen {
			n.equal++
		}
	}
	return n
}

func (n *checked) add(m checked) {
	n.told, n.equal, n.left = n.told+m.told, n.equal+m.equal, n.left+m.left
}

// counts is the table of how the counts agree.
func counts(p *page, public []result, made []made) {
	var a, b checked
	for i := range public {
		a.add(public[i].checked)
	}
	for i := range made {
		b.add(made[i].checked)
	}
	row := func(what string, n checked) []string {
		return []string{what, number(n.told), number(n.equal), number(n.left)}
	}
	p.table([]string{"captures", "findings counted again", "equal in all three outcomes", "left out"}, [][]string{row("public", a), row("made", b)})
}
