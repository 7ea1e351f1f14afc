package detect

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// book keeps the incidents: one of a class and a subject is open at a time, told
// when it begins and when its state changes, told again with new numbers while it
// goes on, and raised again when it does so for long.
type book struct {
	d     *Engine
	known map[incidentKey]*incident
	byAge []*incident // in the order they were opened
	found map[string]uint64
	paged map[string]uint64 // of these for a human
}

// incidentKey is what an incident is about.
type incidentKey struct {
	class  string
	netns  event.NetNS
	zone   uint16
	source netip.Prefix
	target agg.Target
}

type incident struct {
	key         incidentKey
	f           agg.Finding
	first, last event.Ktime // of its evidence
	raised      event.Ktime // as an alarm, the first time
	told        event.Ktime
	loss        agg.Loss // when it was opened
	changed     bool     // there is evidence that was not told
	paged       bool     // was told as one for a human
	// refill writes what is known now into f, before it is told; may be nil.
	refill func()
	// quiet is after how long without evidence it is over.
	quiet   time.Duration
	level   level    // of what is filling
	members []member // links that it is about
}

// Times after which an incident that goes on is raised again.
var raiseAgain = []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

const (
	tellQuiet  = 10 * time.Second // evidence has paused for so long: what is new is told
	tellEvery  = time.Minute      // and it is told so often while it comes
	tellShare  = 4                // but no sooner than when its age has grown by this part
	keepClosed = 24 * time.Hour
)

func newBook(d *Engine) book {
	return book{d: d, known: map[incidentKey]*incident{}, found: map[string]uint64{}, paged: map[string]uint64{}}
}

// find returns an incident, nil if there is none.
func (b *book) find(k incidentKey) *incident { return b.known[k] }

// open returns the incident of a key: a new one whose state is "" until it is given
// one, or that which is known, even one that was over.
func (b *book) open(k incidentKey, first, now event.Ktime) *incident {
	if i := b.known[k]; i != nil {
		return i
	}
	if len(b.byAge) >= b.d.cfg.MaxIncidents {
		b.makeRoom()
	}
	i := &incident{key: k, first: first, last: first, quiet: keepClosed, loss: b.d.state.Loss}
	i.f = agg.Finding{Class: k.class, NetNS: k.netns, Zone: k.zone, Source: k.source, Target: k.target,
		First: b.d.cfg.Clock.At(first), ID: k.id(b.d.cfg.Clock.At(first))}
	b.known[k] = i
	b.byAge = append(b.byAge, i)
	return i
}

// begin opens an incident, or opens one again that was over: its evidence is
// counted from then on.
func (d *Engine) begin(k incidentKey, first event.Ktime) *incident {
	i := d.book.open(k, first, d.now)
	if i.f.State == agg.Cleared {
		i.first, i.last, i.loss, i.level = first, first, d.state.Loss, fine
		i.f.First = d.cfg.Clock.At(first)
	}
	return i
}

// renew is open, but one that was over is left as it is and a new one opened.
func (b *book) renew(k incidentKey, first, now event.Ktime) *incident {
	if i := b.known[k]; i != nil && i.f.State == agg.Cleared {
		delete(b.known, k)
	}
	return b.open(k, first, now)
}

// id is the same for the same incident of the same recording.
func (k *incidentKey) id(first time.Time) string {
	h := sha256.New()
	h.Write([]byte(k.class))
	src, dst := k.source.Addr().As16(), k.target.Addr.As16()
	h.Write(src[:])
	h.Write(dst[:])
	var rest [32]byte
	le := binary.LittleEndian
	le.PutUint32(rest[0:], uint32(k.netns))
	le.PutUint16(rest[4:], k.zone)
	le.PutUint16(rest[6:], k.target.Port)
	rest[8], rest[9] = k.target.Proto, uint8(k.source.Bits())
	le.PutUint64(rest[16:], uint64(first.UnixNano()))
	h.Write(rest[:])
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// makeRoom forgets the oldest that is over, or else the oldest.
func (b *book) makeRoom() {
	at := max(0, slices.IndexFunc(b.byAge, func(i *incident) bool { return i.f.State == agg.Cleared }))
	b.d.over.Incidents++
	b.forget(b.byAge[at])
	b.byAge = slices.Delete(b.byAge, at, at+1)
}

// forget takes an incident out of those that are known, unless there is a new one.
func (b *book) forget(i *incident) {
	if b.known[i.key] == i {
		delete(b.known, i.key)
	}
}

// tell hands out the finding as it is now. It is an alarm when it is the first time.
func (b *book) tell(i *incident, now event.Ktime) {
	if i.f.Raised == 0 {
		i.raised = now
		b.raise(i)
	}
	f := &i.f
	f.Excused = f.Excused && f.State == agg.Cleared
	f.Time, f.Last = b.d.cfg.Clock.At(now), b.d.cfg.Clock.At(i.last)
	f.Loss = lossSince(&b.d.state.Loss, &i.loss)
	if f.Suppress = ""; f.Source.IsValid() && b.d.cfg.Allow != nil {
		if f.Suppress = b.d.cfg.Allow(f.Source.Addr(), f.Time); f.Suppress != "" && f.Severity == agg.Page {
			f.Severity = agg.Feed
		}
	}
	if f.State == agg.Confirmed && f.Severity == agg.Page && !i.paged {
		i.paged = true
		b.paged[f.Class]++
	}
	i.told, i.changed = now, false
	out := *f
	b.d.cfg.Tell(&out)
}

func (b *book) raise(i *incident) {
	i.f.Raised++
	if i.f.Raised == 1 {
		b.found[i.key.class]++
	}
}

// clear ends an incident.
func (b *book) clear(i *incident, now event.Ktime) {
	if i.f.State == agg.Cleared {
		return
	}
	i.f.State = agg.Cleared
	b.tell(i, now)
}

// tick tells what has gone on or is over.
func (b *book) tick(d *Engine) {
	now := d.now
	b.byAge = slices.DeleteFunc(b.byAge, func(i *incident) bool {
		f := &i.f
		switch {
		case f.State == agg.Cleared:
			if now-i.told > event.Ktime(keepClosed) {
				b.forget(i)
				return true
			}
			return false
		case f.State == "": // was opened and not told
			return false
		case now-i.last > event.Ktime(i.quiet):
			i.fill()
			b.clear(i, now)
			return false
		}
		if n := f.Raised; n > 0 && n <= len(raiseAgain) && now-i.raised >= event.Ktime(raiseAgain[n-1]) {
			if now-i.last < event.Ktime(raiseAgain[n-1]/tellShare) { // it does go on
				i.fill()
				b.raise(i)
				b.tell(i, now)
			}
			return false
		}
		if since := now - i.told; i.changed && since >= (i.told-i.first)/tellShare &&
			(now-i.last >= event.Ktime(tellQuiet) || since >= event.Ktime(tellEvery)) {
			i.fill()
			b.tell(i, now)
		}
		return false
	})
}

func (i *incident) fill() {
	if i.refill != nil {
		i.refill()
	}
}

func lossSince(now, then *agg.Loss) agg.Loss {
	return agg.Loss{Seen: now.Seen - then.Seen, Delivered: now.Delivered - then.Delivered,
		Aggregated: now.Aggregated - then.Aggregated, Lost: now.Lost - then.Lost}
}

// all returns the incidents, the newest first.
func (b *book) all() []agg.Finding {
	var out []agg.Finding
	for _, i := range b.byAge {
		if i.f.State != "" {
			out = append(out, i.f)
		}
	}
	slices.SortStableFunc(out, func(a, b agg.Finding) int {
		return cmp.Or(b.First.Compare(a.First), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// byClass returns counts in the order of their classes.
func byClass(counts map[string]uint64) []agg.ClassCount {
	var out []agg.ClassCount
	for c, n := range counts {
		out = append(out, agg.ClassCount{Class: c, Count: n})
	}
	slices.SortFunc(out, func(a, b agg.ClassCount) int { return cmp.Compare(a.Class, b.Class) })
	return out
}
