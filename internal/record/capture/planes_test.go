package capture

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

// TestTiles: a column may begin as one number for all, become another, grow wider and be
// 0 again, and what columns are of may come and go, at any place of a section: everything
// comes back.
func TestTiles(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{}) // one for all: nothing is left of the section before
	must(t, err)
	var all []event.Event
	for n := range 64 {
		events := gateway([]int{1, tile - 1, tile, tile + 1, 3 * tile, 1000, maxBatch, maxBatch + 1}[n%8])
		for at := 0; at < len(events); {
			to := min(len(events), at+1+r.IntN(5*tile)) // a run of events that are alike
			like, which := anything(r, 5), r.IntN(10)
			for k := at; k < to; k++ {
				e := &events[k]
				switch which {
				case 0:
					e.By, e.Task = like.By, like.Task
				case 1:
					e.Reply = event.Tuple{}
				case 2:
					e.Reply = e.Orig.Inverse()
				case 3:
					e.Lifetime, e.HasLifetime, e.Timeout, e.Cause, e.TCPState = 0, false, 0, 0, 0
				case 4:
					e.Reason, e.TCPFlags, e.KfreeReason, e.Location = like.Reason, like.TCPFlags, like.KfreeReason, like.Location
				case 5:
					e.Time, e.CPU, e.Mark, e.Zone = like.Time, like.CPU, like.Mark, like.Zone
				case 6:
					e.NetNS, e.Sample, e.Status = like.NetNS, like.Sample, 0
				case 7:
					*e = like
				case 8:
					*e = anything(r, e.Time)
				}
			}
			at = to
		}
		must(t, c.Events(events))
		must(t, c.Flush())
		all = append(all, events...)
	}
	must(t, c.Close(nil))
	in, err := NewReader(&out)
	must(t, err)
	n := 0
	for _, x := range read(t, in) {
		for i := range x.Events {
			if !reflect.DeepEqual(x.Events[i], all[n]) {
				t.Fatalf("event %d, %d of %d:\n%+v\nwant\n%+v", n, i, len(x.Events), x.Events[i], all[n])
			}
			n++
		}
	}
	if n != len(all) {
		t.Fatalf("%d events, want %d", n, len(all))
	}
}
