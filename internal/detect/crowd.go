package detect

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// crowd is what comes in at a front that is followed: every entry since first.
type crowd struct {
	scope  scope
	netns  event.NetNS
	zone   uint16
	target agg.Target

	after       event.Ktime // what is later than this is counted
	first, last event.Ktime
	n           uint64 // entries
	never       uint64 // of them of sources that were never served here
	strangers   uint64 // of them the first, of sources that nobody has answered
	refused     uint64 // entries that went by a RST
	dropped     uint64 // packets that found no room
	solicited   uint64 // UDP that the target has asked for
	sources     distinct
	networks    distinct // /24 and /64 of these
	dsts, ports distinct // of a port, of a host
	top         heavy    // sources
	sports      heavy
	hosts       heavy  // of a port
	dports      heavy  // of a host
	recent      uint32 // front.tries of the tick before

	now, before looks // of this tick and the one before
	all         looks // since first
	slot        event.Ktime
	inSlot      int
	samples     []agg.Contacted
	used        used

	y        float64   // the statistic (flood.go)
	nothing  float64   // entries that came to nothing since y is above 0
	peak     float64   // the most of these in a second
	usual    float64   // and how many are usual
	idle     int       // ticks in which little came
	incident *incident // nil when there was none
	told     told      // what of this is in the finding
}

// looks is what looks have shown.
type looks struct{ silent, half, done uint64 }

func (k *looks) len() uint64 { return k.silent + k.half + k.done }

func (k *looks) add(o *looks) {
	k.silent += o.silent
	k.half += o.half
	k.done += o.done
}

// add counts an entry.
func (c *crowd) add(d *Engine, e *event.Event, p *place, n uint32) {
	if e.Time <= c.after {
		return
	}
	if c.n == 0 {
		c.first = e.Time
	}
	c.n += uint64(n)
	c.last = e.Time
	src := sketchHash(e.Orig.Src)
	c.sources.add(src)
	c.networks.add(sketchHash(prefixOf(e.Orig.Src).Addr()))
	c.top.add(src, uint64(n), e.Orig.Src)
	if c.scope == ofHost || c.scope == ofAll {
		c.ports.add(max(1, wyhash.Mix(uint64(e.Orig.Dport), 1)))
		c.dports.add(uint64(e.Orig.Dport), uint64(n), e.Orig.Dst)
	}
	if c.scope == ofPort || c.scope == ofAll {
		h := sketchHash(e.Orig.Dst)
		c.dsts.add(h)
		c.hosts.add(h, uint64(n), e.Orig.Dst)
	}
	if e.Orig.Proto == event.ProtoUDP {
		c.sports.add(uint64(e.Orig.Sport), uint64(n), e.Orig.Src)
		if d.asked(e) {
			c.solicited += uint64(n)
		}
	}
}

// restart forgets what came so far: it was no flood.
func (c *crowd) restart(now event.Ktime) {
	c.after, c.n, c.never, c.strangers, c.refused, c.dropped, c.solicited = now, 0, 0, 0, 0, 0, 0
	for _, s := range []*distinct{&c.sources, &c.networks, &c.dsts, &c.ports} {
		s.reset()
	}
	c.top, c.sports, c.hosts, c.dports, c.all = heavy{}, heavy{}, heavy{}, heavy{}, looks{}
	c.samples, c.used = nil, used{}
}
