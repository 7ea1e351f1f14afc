package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
)

// lookWithin bounds the queries of one look at contacts, so that a table that is
// locked does not hold back findings.
const lookWithin = time.Second

// queries looks with a query over netlink for each entry: some microseconds each.
type queries struct{ f *Fallback }

func (l queries) look(ctx context.Context, looks []detect.Look, seen []detect.Seen) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	byNet := map[event.NetNS][]int{}
	var order []event.NetNS
	for i := range looks {
		ns := looks[i].NetNS
		if byNet[ns] == nil {
			order = append(order, ns)
		}
		byNet[ns] = append(byNet[ns], i)
	}
	var errs []error
	for _, ns := range order {
		errs = append(errs, l.f.look(ctx, ns, looks, byNet[ns], seen))
	}
	return errors.Join(errs...)
}

// look asks one namespace for the looks of the given numbers. One that is gone
// answers nothing.
func (f *Fallback) look(ctx context.Context, ns event.NetNS, looks []detect.Look, numbers []int, seen []detect.Seen) error {
	f.mu.Lock()
	n := f.nets[ns]
	f.mu.Unlock()
	if n == nil {
		return nil
	}
	q := make([]ctnl.Query, len(numbers))
	for i, k := range numbers {
		q[i] = ctnl.Query{Orig: looks[k].Orig, Zone: looks[k].Zone}
	}
	err := n.conn.Lookup(ctx, q)
	if errors.Is(err, ctnl.ErrClosed) || errors.Is(err, ctnl.ErrTimeout) || ctx.Err() != nil {
		err = nil // it went away meanwhile, or there was no time: what has no answer is not known, and is counted
	}
	for i, k := range numbers {
		a := &q[i].Answer
		seen[k] = detect.Seen{Known: a.Known, Query: true, Live: a.Live, Status: a.Status, TCPState: a.TCPState}
	}
	return err
}
