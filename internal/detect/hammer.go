package detect

import (
	"fmt"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D3: one source connects to one endpoint again and again, is let in each time, and is
// gone within 10 s: passwords are guessed, or a client has lost its mind. 20 such
// connections made within 60 s.
//
// How long one was open is known when its entry goes, two minutes after it was closed
// (openFor). What it means depends on the port. Where one logs in, it is guessing: for
// the feed, and confirmed; of an address of our own, which may be an automat, it is
// suspect at 20 and confirmed at 60, and for information once the link has been known
// for an hour. Databases are such a port for others than our own. At a port of HTTP or DNS short connections are what clients do: there
// it takes five times the link's own mean per minute, over half an hour at least, and
// is for information. At other ports it is suspect, for information.
const (
	hammerLeast  = 20
	hammerSure   = 60
	hammerWithin = time.Minute
	hammerKnown  = time.Hour
	hammerTimes  = 5.
	hammerFloor  = 4. // of a mean per minute
	hammerLearns = 20 // minutes
	hammerQuiet  = 5 * time.Minute
	hammerLists  = time.Hour // for a list, after the last
)

// logins are ports where somebody is asked who he is: FTP, SSH, Telnet, mail, SMB and
// LDAP, remote desktops, WinRM, SIP, and what they are moved to.
var logins = []uint16{21, 22, 23, 25, 110, 139, 143, 389, 445, 465, 587, 636, 993, 995, 2222, 2323, 3389, 5060, 5900, 5985, 5986, 22222}

// databases are the same, but for clients of our own without a pool.
var databases = []uint16{1433, 1521, 3306, 5432, 6379, 27017}

// webs are ports where a connection for each question is ordinary.
var webs = []uint16{53, 80, 443, 853, 3128, 8000, 8080, 8443, 8888}

// hammer is short connections of a link, by the time they were made.
type hammer struct {
	at          [hammerLeast]event.Ktime // the last
	n           uint64                   // without a pause of a minute
	first, last event.Ktime
	samples     []agg.Contacted
	baseline    bool // told because of its mean
}

// add says whether the last of them came within a minute.
func (h *hammer) add(at event.Ktime, c agg.Contacted) bool {
	if h.n > 0 && at-h.last > event.Ktime(hammerWithin) {
		*h = hammer{}
	}
	if h.n == 0 || at < h.first {
		h.first = at
	}
	h.at[h.n%hammerLeast] = at
	h.n++
	h.last = max(h.last, at)
	if len(h.samples) < samples {
		h.samples = append(h.samples, c)
	} else {
		h.samples[samples-1] = c
	}
	return h.n >= hammerLeast && h.last-slices.Min(h.at[:]) <= event.Ktime(hammerWithin)
}

// hammered takes a short connection.
func (d *Engine) hammered(x *link, e *event.Event, made event.Ktime) {
	if x.hammer == nil {
		x.hammer = &hammer{}
	}
	if x.hammer.add(made, agg.Contacted{At: d.cfg.Clock.At(made), Orig: e.Orig, Outcome: Answered.String()}) && !slices.Contains(webs, x.tuple.Dport) {
		d.tellHammer(x)
	}
}

// hammeredMore compares the minute that has ended with those before.
func (d *Engine) hammeredMore(x *link) {
	if x.hammer == nil || x.kept() < hammerLearns {
		return
	}
	n, short := uint32(0), uint64(0)
	for i := uint32(1); i < x.kept(); i++ {
		short += x.back(i).lives.short
		n++
	}
	usual := max(hammerFloor, float64(short)/float64(n))
	if now := float64(x.back(0).lives.short); now >= hammerLeast && x.hammer.n >= hammerLeast && now > hammerTimes*usual {
		x.hammer.baseline = true
		d.tellHammer(x)
	}
}

func (d *Engine) tellHammer(x *link) {
	h := x.hammer
	state, severity := agg.Suspect, agg.Info
	if slices.Contains(logins, x.tuple.Dport) || !d.cfg.Internal(x.tuple.Src) && slices.Contains(databases, x.tuple.Dport) {
		switch ours, known := d.cfg.Internal(x.tuple.Src), d.now-x.since >= event.Ktime(hammerKnown); {
		case !ours, !known && h.n >= hammerSure:
			state, severity = agg.Confirmed, agg.Feed
		case !known:
			severity = agg.Feed
		}
	}
	d.show(x, "connection_hammering", h.first, hammerQuiet, state, severity, func(x *link, f *agg.Finding) {
		if h := x.hammer; h != nil && d.cfg.Clock.At(h.first).Equal(f.First) {
			h.fill(d, x, f)
		}
	})
}

func (h *hammer) fill(d *Engine, x *link, f *agg.Finding) {
	f.Statistic, f.Threshold = float64(h.n), hammerLeast
	f.Evidence = agg.Evidence{Attempts: 0, Answered: h.n, Dsts: 1, Dports: 1, Samples: slices.Clone(h.samples), Used: []string{"destroy"}}
	f.Why = fmt.Sprintf("%s connected to %s %d times in %s, was let in each time and gone within %s", x.tuple.Src, endpointName(&x.tuple),
		h.n, brief(h.last.Sub(h.first)), shortOpen)
	if h.baseline {
		f.Why += fmt.Sprintf("; that is more than %.0f times its mean", hammerTimes)
	}
	if f.WhyNotBenign = ""; f.Severity != agg.Info {
		f.WhyNotBenign = "where one logs in, a client keeps its connection or comes back seldom; that is no scan: it is one endpoint, which answers"
	}
	f.Expires = d.cfg.Clock.At(h.last).Add(hammerLists)
}
