package pipeline

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// A journal is what a Keeper makes of events besides the census: the ledger of
// drops and evictions since the start, and the newest lost packet of each reason.
// All else is none of its business and costs it a comparison.
type journal struct {
	ledger *agg.Ledger
	sums   bool // what an event stands for besides itself comes in sums
	newest [event.NumReasons]lostPacket
}

type lostPacket struct {
	at   event.Ktime // 0: none yet
	orig event.Tuple
}

func newJournal(sums bool) *journal {
	return &journal{ledger: agg.NewLedger(agg.LedgerConfig{}), sums: sums}
}

// add counts an event.
func (j *journal) add(e *event.Event) {
	switch {
	case e.Kind == event.Drop && int(e.Reason) < len(j.newest):
		j.newest[e.Reason] = lostPacket{e.Time, e.Orig}
	case e.Kind == event.Destroy && e.Cause == event.EarlyDrop:
	default:
		return
	}
	one := *e
	if j.sums {
		one.Sample = 1
	}
	j.ledger.Add(&one)
}

// examples are the newest lost packets.
func (j *journal) examples(clock event.Clock) (out []agg.DropExample) {
	for r, p := range j.newest {
		if p.at != 0 {
			out = append(out, agg.DropExample{Reason: event.Reason(r), Src: p.orig.Src, Dst: p.orig.Dst, At: clock.At(p.at)})
		}
	}
	return out
}
