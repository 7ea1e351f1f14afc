package detect

import (
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// End tells of every incident what has come since it was told, for who will not be
// there later: the last numbers are those of all events. now is no earlier than the
// last tick.
func (d *Engine) End(now event.Ktime) {
	d.now = max(d.now, now)
	for _, i := range slices.Clone(d.book.byAge) {
		if i.changed && i.f.State != "" && i.f.State != agg.Cleared {
			i.fill()
			d.book.tell(i, d.now)
		}
	}
}
