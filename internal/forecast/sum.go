package forecast

import "github.com/ctsight/ctsight/internal/event"

// Sum counts what was not told one by one. At which age entries died is not
// known then, nor their class.
func (f *Feed) Sum(x *event.Sum) {
	switch {
	case x.Kind == event.New, x.Reason == event.ClashNATReplyOnly:
		f.born += x.N
		if p := f.fine.at(int64(x.Last / fineSlot)); p != nil {
			*p += uint32(x.N)
		}
	case x.Kind == event.Destroy && x.Cause != event.EarlyDrop && x.Cause != event.EarlyDropGC:
		f.dead[Other][Bins] += uint32(x.N)
	}
}
