package pipeline

import (
	"errors"
	"slices"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// follow takes up namespaces that are new and lets go of those that nobody but
// us keeps alive.
func (f *Fallback) follow() error {
	list, err := f.list()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listErr = err; err != nil || f.closed {
		return err
	}
	clear(f.refused)
	found := map[event.NetNS]bool{}
	for _, ns := range list {
		found[ns.Inode] = true
		if f.nets[ns.Inode] == nil {
			if err := f.add(ns); err != nil {
				f.refused[ns.Inode] = err
			}
		}
	}
	var errs []error
	for ino, n := range f.nets {
		if !found[ino] {
			errs = append(errs, f.remove(n))
		}
	}
	return errors.Join(errs...)
}

// add begins to watch a namespace. One that vanishes meanwhile is no error.
func (f *Fallback) add(ns ctnl.NS) error {
	n := &fallbackNet{ns: ns}
	var err error
	if n.conn, err = ctnl.Dial(ns); err != nil {
		return f.vanished(ns, err)
	}
	if f.nf != nil {
		if err := f.nf.AttachNetNS(ns.Path, ns.Inode); err != nil {
			return errors.Join(f.vanished(ns, err), n.conn.Close())
		}
	}
	p, err := f.read(n)
	if err != nil && f.nf == nil {
		n.err = err
	}
	if f.nf != nil { // not to count more losses than the kernel, ever
		p.raw = f.nf.CountersOf(ns.Inode)
	}
	if n.account = f.gone[ns.Inode]; n.account == nil {
		n.account = newAccount(p)
	} else { // the number is used again, by a namespace that counts from 0
		delete(f.gone, ns.Inode)
		n.account.restart(p)
	}
	if v, err := ns.EventsSysctl(); err == nil && v == 0 {
		n.eventsOff = true
	}
	groups := ctnl.DestroyEvents
	if f.nf == nil {
		groups |= ctnl.NewEvents
	}
	if n.listener, err = ctnl.Listen(ns, ctnl.ListenConfig{Groups: groups}); err != nil {
		n.err = err
	} else {
		f.readers.Go(func() { f.listen(n) })
	}
	f.nets[ns.Inode] = n
	return nil
}

// vanished is nil when the namespace is gone.
func (f *Fallback) vanished(ns ctnl.NS, err error) error {
	if _, oerr := ctnl.OpenNS(ns.Path); oerr != nil {
		return nil
	}
	return err
}

// listen passes the events of one namespace on until its listener is closed.
func (f *Fallback) listen(n *fallbackNet) {
	for {
		err := n.listener.Read(func(e *event.Event) {
			f.mu.Lock()
			switch e.Kind {
			case event.New:
				n.account.news++
			case event.Destroy:
				n.account.causes[e.Cause]++
			}
			f.mu.Unlock()
			f.m.pushRead(e)
		})
		if err != nil {
			f.mu.Lock()
			if !errors.Is(err, ctnl.ErrClosed) && !errors.Is(err, ctnl.ErrTimeout) {
				n.err = err
			}
			f.mu.Unlock()
			return
		}
	}
}

// remove ends watching a namespace; what was counted stays.
func (f *Fallback) remove(n *fallbackNet) error {
	f.update(n)
	var errs []error
	if f.nf != nil {
		errs = append(errs, f.nf.ForgetNetNS(n.ns.Inode))
	}
	if n.listener != nil {
		errs = append(errs, n.listener.Close())
		addCounts(&f.past, n.listener.Counts())
	}
	errs = append(errs, n.conn.Close())
	delete(f.nets, n.ns.Inode)
	f.bury(n.ns.Inode, n.account)
	return errors.Join(errs...)
}

// goneKept is how many accounts of namespaces that are gone are kept by number: some
// three kilobytes each, and there may be thousands in a day.
const goneKept = 1024

// bury keeps the account of a namespace that is gone. When there are too many, what
// another holds goes where the counts of namespaces without a place go; but not
// packets that were merged, which are taken off the count of its own number.
func (f *Fallback) bury(ino event.NetNS, a *account) {
	f.gone[ino] = a
	if len(f.gone) <= goneKept {
		return
	}
	for k, old := range f.gone {
		if k != ino && old.merged == 0 {
			f.buried.plus(old)
			delete(f.gone, k)
			return
		}
	}
}

func addCounts(to *ctnl.Counts, c ctnl.Counts) {
	to.Messages += c.Messages
	to.Decoded += c.Decoded
	to.Undecodable += c.Undecodable
	to.Skipped += c.Skipped
	to.Foreign += c.Foreign
	to.Overruns += c.Overruns
	to.Lost += c.Lost
}

// read takes a reading of a namespace.
func (f *Fallback) read(n *fallbackNet) (point, error) {
	var p point
	var err error
	if p.at, err = probe.Now(); err != nil {
		return p, err
	}
	if f.nf != nil {
		p.raw = f.nf.CountersOf(n.ns.Inode)
	}
	if p.stats, err = n.conn.Stats(); err == nil {
		p.fill, err = n.conn.Fill()
	}
	return p, err
}

func countersOf(all []probe.Counters, ns event.NetNS) probe.Counters {
	i, ok := slices.BinarySearchFunc(all, ns, func(c probe.Counters, ns event.NetNS) int { return int(c.NetNS) - int(ns) })
	if !ok {
		return probe.Counters{NetNS: ns}
	}
	return all[i]
}

// update brings the account of a namespace up to now, as far as it can be read.
func (f *Fallback) update(n *fallbackNet) {
	p, err := f.read(n)
	switch {
	case err != nil:
	case f.nf != nil:
		n.account.next(p)
	default:
		for r, count := range n.account.losses(p) {
			f.own++
			f.m.squeeze(&event.Event{Time: p.at, Kind: event.Drop, Reason: r, NetNS: n.ns.Inode, Sample: uint32(min(count, 1<<32-1)), BestEffort: true})
		}
	}
}
