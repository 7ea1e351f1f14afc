package relief

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/triage"
)

// Request is what shall be changed, for how long and why.
type Request struct {
	Asks   []Ask
	Place  Place
	For    time.Duration
	Reason string
	Who    Who
	Memory Memory
	Share  float64 // of all memory that a full table may take
	Force  bool    // more than that
}

// Memory is what entries cost here and what there is.
type Memory struct {
	Entry            int    // bytes of an entry in its slab, 0 unknown (triage.Memory.Object)
	Total, Available uint64 // bytes
}

// Plan is what Set would do.
type Plan struct {
	Steps   []Step
	For     time.Duration
	Expires time.Time
	RAM     *RAM   // nil where neither limit nor buckets change
	TooMuch string // why it needs force, "" when it does not
	Warning string // after Set: what is not as it should be
}

// Step is one sysctl of a Plan.
type Step struct {
	Ask
	ID             string // after Set
	Place          Place
	Present, Found uint64  // Found comes back
	Again          *Change // the open change that is made anew, nil for none
	Entries        uint64  // of the fullest table; for the limit only

	old *Change // to go back to when the rest does not work
	now *Change
}

// RAM is what a full table takes.
type RAM struct {
	Before, After            uint64 // bytes
	Entry                    int    // bytes of one entry with its extensions
	MaxBefore, MaxAfter      uint64
	BucketsBefore, BucketsAt uint64
	Memory
}

// MinFor is the shortest time that a change is made for.
const MinFor = time.Second

// Plan looks at what is and says what would be. It changes nothing.
func (b *Book) Plan(r Request) (*Plan, error) {
	unlock, err := b.Disk.Lock()
	if errors.Is(err, os.ErrNotExist) {
		return b.plan(&r, nil)
	}
	if err != nil {
		return nil, err
	}
	all, err := journal{b.Disk}.load()
	if err := errors.Join(err, unlock()); err != nil {
		return nil, err
	}
	for _, c := range all {
		if err := b.settle(c); err != nil {
			return nil, err
		}
	}
	return b.plan(&r, all)
}

// plan is Plan with the journal at hand. A journal of which a part cannot be read may
// have an open change in it: nothing is set beside that.
func (b *Book) plan(r *Request, all []*Change) (*Plan, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	p := &Plan{For: r.For, Expires: b.Host.Now().Add(r.For).UTC().Truncate(time.Second)}
	for _, a := range r.Asks {
		s, err := b.step(r, a.rounded(), all)
		if err != nil {
			return nil, err
		}
		p.Steps = append(p.Steps, *s)
	}
	return p, b.weigh(r, p)
}

func (r *Request) check() error {
	switch {
	case len(r.Asks) == 0:
		return usage("what to set? as nf_conntrack_max=524288")
	case r.For < MinFor || r.For > MaxFor:
		return usage("--for %s: how long it holds, from %s to %s", r.For, MinFor, MaxFor)
	case strings.TrimSpace(r.Reason) == "" || len(r.Reason) > maxText:
		return usage("--reason: why, as a ticket (up to %d bytes)", maxText)
	case r.Share <= 0 || r.Share > 1:
		return usage("--share: more than 0 %% of all memory, up to 100 %%")
	}
	for i, a := range r.Asks {
		if slices.ContainsFunc(r.Asks[:i], func(o Ask) bool { return o.Sysctl == a.Sysctl }) {
			return usage("%s is there twice", a.Sysctl)
		}
	}
	return nil
}

// step looks at one sysctl.
func (b *Book) step(r *Request, a Ask, all []*Change) (*Step, error) {
	v, writable, err := b.Kernel.Read(r.Place, a.Sysctl)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("this kernel has no %s now: an old or new kernel, or nf_conntrack is not loaded (modprobe nf_conntrack)", a.Sysctl)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", a.Sysctl, err)
	case !writable:
		return nil, usage("%s cannot be written in network namespace %s: it is one for all namespaces, so set it in the initial one, on the host without --netns", a.Sysctl, r.Place.NetNS)
	}
	s := &Step{Ask: a, Place: r.Place, Present: v, Found: v}
	if c := openOf(all, r.Place, a.Sysctl); c != nil && (c.ours(v) || v == c.Found) {
		s.Again, s.Found = c, c.Found
	}
	if a.Value == s.Found {
		if s.Again != nil {
			return nil, usage("%s=%d is what was found: ctsight relief revert %s", a.Sysctl, a.Value, s.Again.ID)
		}
		return nil, usage("%s is %d already", a.Sysctl, a.Value)
	}
	if global(a.Sysctl) && (s.Found == 0 || a.Value < s.Found) {
		return nil, usage("%s=%d is less than the %s that was found, and relief never lowers it: to lower it, sysctl -w net.netfilter.%s=%d", a.Sysctl, a.Value, unlimited(s.Found), a.Sysctl, a.Value)
	}
	if kindOf(a.Sysctl) != limit {
		return s, nil
	}
	if s.Entries, err = b.Kernel.Fullest(); err == nil && a.Value <= s.Entries {
		return nil, usage("%s=%d: the fullest table has %d entries, no new connection would get in", a.Sysctl, a.Value, s.Entries)
	}
	return s, nil
}

// unlimited is how a limit reads.
func unlimited(v uint64) string {
	if v == 0 {
		return "0 (no limit)"
	}
	return fmt.Sprint(v)
}

// weigh fills in what memory a full table takes, before and after, and whether that is
// too much.
func (b *Book) weigh(r *Request, p *Plan) error {
	m := &RAM{Entry: r.Memory.Entry + triage.Extensions, Memory: r.Memory}
	changes := false
	for _, of := range []struct {
		sysctl        string
		before, after *uint64
	}{{prefix + "max", &m.MaxBefore, &m.MaxAfter}, {prefix + "buckets", &m.BucketsBefore, &m.BucketsAt}} {
		i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Sysctl == of.sysctl })
		if i >= 0 {
			*of.before, *of.after, changes = p.Steps[i].Present, p.Steps[i].Value, true
			continue
		}
		v, _, err := b.Kernel.Read(r.Place, of.sysctl)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %w", of.sysctl, err)
		}
		*of.before, *of.after = v, v
	}
	if !changes {
		return nil
	}
	p.RAM = m
	entry := triage.Memory{Object: r.Memory.Entry}
	bytes := func(max, buckets uint64) uint64 {
		entry.Buckets = buckets
		return entry.Bytes(max)
	}
	m.Before, m.After = bytes(m.MaxBefore, m.BucketsBefore), bytes(m.MaxAfter, m.BucketsAt)
	switch grows := m.After - min(m.After, m.Before); {
	case r.Memory.Entry == 0 || r.Memory.Total == 0:
		p.TooMuch = "what an entry takes is not known on this kernel (/sys/kernel/slab/nf_conntrack/slab_size)"
	case float64(m.After) > r.Share*float64(r.Memory.Total):
		p.TooMuch = fmt.Sprintf("a full table would take %.1f %% of all memory, more than %.0f %% (--share)", 100*float64(m.After)/float64(r.Memory.Total), 100*r.Share)
	case grows > r.Memory.Available:
		p.TooMuch = fmt.Sprintf("a full table would take %d MiB more, and %d MiB are available", grows>>20, r.Memory.Available>>20)
	}
	return nil
}

// ErrTooMuch says that a change needs force.
var ErrTooMuch = errors.New("it needs too much memory")

// Set makes the change: all of it, or nothing. First the journal, then who ends it,
// then the kernel.
func (b *Book) Set(r Request) (p *Plan, err error) {
	if err := b.Disk.Make(); err != nil {
		return nil, err
	}
	unlock, err := b.Disk.Lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	j := journal{b.Disk}
	all, err := j.load()
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		before := *c
		if err := b.settle(c); err != nil {
			return nil, err
		}
		if c.changed(&before) {
			if err := j.save(c); err != nil {
				return nil, err
			}
		}
	}
	if p, err = b.plan(&r, all); err != nil {
		return nil, err
	}
	if p.TooMuch != "" && !r.Force {
		return p, fmt.Errorf("%w: %s; --force does it all the same", ErrTooMuch, p.TooMuch)
	}
	if b.Jitter != nil {
		p.Expires = p.Expires.Add(b.Jitter(r.For)).Truncate(time.Second)
	}
	if err := b.intend(j, &r, p, all); err != nil {
		return p, err
	}
	if b.Arm != nil {
		if err := b.Arm(p.Steps[0].ID, b.until(p.Steps[0].now)); err != nil {
			p.Warning = err.Error()
		}
	}
	if err := b.apply(j, p); err != nil {
		return p, err
	}
	// What was set is set: that the journal has no room to say so is settled later.
	for i := range p.Steps {
		c := p.Steps[i].now
		c.State, c.Earlier, c.Foreign = Applied, nil, nil
		if err := j.save(c); err != nil {
			p.Warning = strings.TrimPrefix(p.Warning+"; "+err.Error(), "; ")
		}
	}
	_ = j.tidy(all, b.Host.Now()) // tries again next time
	return p, nil
}

// intend writes the journal, for all steps or none.
func (b *Book) intend(j journal, r *Request, p *Plan, all []*Change) error {
	for i := range p.Steps {
		s := &p.Steps[i]
		if err := b.draft(r, p, s, all); err != nil {
			return errors.Join(err, forget(j, p.Steps[:i]))
		}
		if err := j.save(s.now); err != nil {
			return errors.Join(fmt.Errorf("%w: nothing was changed", err), forget(j, p.Steps[:i+1]))
		}
	}
	return nil
}

// draft is the change of a step.
func (b *Book) draft(r *Request, p *Plan, s *Step, all []*Change) (err error) {
	now := b.Host.Now()
	c := &Change{Version: version, Place: s.Place, Sysctl: s.Sysctl, Found: s.Found}
	if s.Again != nil {
		old, anew := *s.Again, *s.Again
		s.old, c = &old, &anew
		c.Notes = slices.Clone(c.Notes)
		c.note(now, "made anew: it was %d until %s (%s)", c.Set, c.Expires.Format(time.RFC3339), c.Reason)
		c.Earlier = append(slices.Clone(c.Earlier), c.Set)
	} else {
		for c.ID == "" || slices.ContainsFunc(all, func(o *Change) bool { return o.ID == c.ID }) {
			if c.ID, err = newID(); err != nil {
				return err
			}
		}
		if o := openOf(all, s.Place, s.Sysctl); o != nil { // somebody else's value is what there is now
			o.leave(now, s.Present)
			if err := (journal{b.Disk}).save(o); err != nil {
				return err
			}
		}
	}
	c.State, c.Set, c.Reason, c.Who = Intended, s.Value, r.Reason, r.Who
	c.Boot, c.At, c.Expires, c.Uptime = b.Host.Boot, now.UTC().Truncate(time.Second), p.Expires, b.Host.Uptime()
	s.now, s.ID = c, c.ID
	return nil
}

// forget takes back what intend wrote.
func forget(j journal, steps []Step) error {
	var errs []error
	for i := range steps {
		switch s := &steps[i]; {
		case s.now == nil:
		case s.old != nil:
			errs = append(errs, j.save(s.old))
		default:
			errs = append(errs, j.drop(s.ID+ending))
		}
	}
	return errors.Join(errs...)
}

// apply tells the kernel, all steps or none.
func (b *Book) apply(j journal, p *Plan) error {
	for i := range p.Steps {
		s := &p.Steps[i]
		err := b.write(s.Place, s.Sysctl, s.Value)
		if err == nil {
			continue
		}
		errs := []error{fmt.Errorf("%s: %w: nothing was changed", s.Sysctl, err)}
		for k := i; k >= 0; k-- { // this one too: it may be something else now
			if err := b.putBack(&p.Steps[k]); err != nil {
				errs = append(errs, fmt.Errorf("%s was not put back: %w", p.Steps[k].Sysctl, err))
				return errors.Join(append(errs, forget(j, p.Steps[k+1:i+1]))...)
			}
		}
		return errors.Join(append(errs, forget(j, p.Steps))...)
	}
	return nil
}

// putBack makes of a value what it was.
func (b *Book) putBack(s *Step) error {
	if v, _, err := b.Kernel.Read(s.Place, s.Sysctl); err == nil && v == s.Present {
		return nil
	}
	return b.write(s.Place, s.Sysctl, s.Present)
}
