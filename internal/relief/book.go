package relief

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Host is what tells this boot from another, and the time.
type Host struct {
	Boot   string
	Now    func() time.Time
	Uptime func() time.Duration // since boot, sleep included
}

// ThisHost is the one that we run on.
func ThisHost() (Host, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return Host{strings.TrimSpace(string(boot)), time.Now, func() time.Duration {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
			return 0
		}
		return time.Duration(ts.Nano())
	}}, err
}

// Book makes, ends and tells of changes. Several processes may have one at a time.
type Book struct {
	Disk   Disk
	Kernel Kernel
	Host   Host
	// Arm has somebody come when a change is over, nil for nobody. It is called before
	// the kernel is told.
	Arm func(id string, after time.Duration) error
	// Jitter says how much later a change ends, so that many hosts do not change at one
	// moment; nil for not at all.
	Jitter func(time.Duration) time.Duration
}

// maxJitter is how much later than asked for a change ends at most.
const maxJitter = 5 * time.Minute

// Jitter is up to a hundredth of the time, at most maxJitter.
func Jitter(d time.Duration) time.Duration {
	most := min(d/100, maxJitter) / time.Second
	n, err := rand.Int(rand.Reader, big.NewInt(int64(most)+1))
	if err != nil {
		return 0
	}
	return time.Duration(n.Int64()) * time.Second
}

// Expire takes back what is over, closes what a reboot has ended, finds out what became
// of changes whose process died, and notes what others have written. It returns what
// was closed; the error is of what has to wait, or could not be read.
func (b *Book) Expire() ([]*Change, error) {
	return b.each(func(c *Change) error {
		if c.Open() && c.due(&b.Host) {
			return b.end(c, false)
		}
		return b.observe(c)
	})
}

// Revert takes changes back now: by their ids, those of a sysctl that are open by its
// name, and all that are open where nothing is named. Those of a namespace, 0 for any. It
// returns what was closed.
func (b *Book) Revert(named []string, in event.NetNS) ([]*Change, error) {
	left := slices.Clone(named)
	closed, err := b.each(func(c *Change) error {
		byID, bySysctl := slices.Contains(named, c.ID), slices.ContainsFunc(named, c.of)
		if named != nil && !byID && !bySysctl || in != 0 && in != c.NetNS && !global(c.Sysctl) {
			return nil
		}
		if byID || c.Open() {
			left = slices.DeleteFunc(left, func(name string) bool { return name == c.ID || c.of(name) })
		}
		if !c.Open() {
			if !byID {
				return nil
			}
			return fmt.Errorf("%s is %s already, since %s", c.ID, strings.ReplaceAll(string(c.State), "_", " "), c.Closed.Format(time.RFC3339))
		}
		return b.end(c, true)
	})
	if len(left) > 0 {
		err = errors.Join(err, usage("no change %q that is open: see ctsight relief list", left[0]))
	}
	return closed, err
}

// of says whether a change is of a sysctl, however that is written.
func (c *Change) of(sysctl string) bool {
	name, err := Canonical(sysctl)
	return err == nil && name == c.Sysctl
}

// each lets visit look at every change once it is settled, and saves what is different
// then. It returns what was open and is closed now.
func (b *Book) each(visit func(*Change) error) (closed []*Change, err error) {
	unlock, err := b.Disk.Lock()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // nothing was ever changed
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	j := journal{b.Disk}
	all, err := j.load()
	errs := []error{err}
	for _, c := range all {
		before := *c
		err := b.settle(c)
		if err == nil {
			err = visit(c)
		}
		if err != nil {
			errs = append(errs, err)
		}
		if c.changed(&before) {
			if err := j.save(c); err != nil { // told again by who comes next
				errs = append(errs, err)
				continue
			}
		}
		if before.Open() && !c.Open() {
			closed = append(closed, c)
		}
	}
	return closed, errors.Join(errs...)
}

func (c *Change) changed(before *Change) bool {
	return c.State != before.State || len(c.Notes) != len(before.Notes) || c.Omitted != before.Omitted
}

// settle closes what a reboot has ended, and finds out what became of a change whose
// process died before it said so: nobody is at it now, the lock is ours.
func (b *Book) settle(c *Change) error {
	switch {
	case !c.Open():
		return nil
	case c.Boot != b.Host.Boot:
		return b.rebooted(c)
	case c.State != Intended:
		return nil
	}
	now := b.Host.Now()
	v, _, err := b.Kernel.Read(c.Place, c.Sysctl)
	switch {
	case vanished(err):
		c.close(Reverted, now, "%s, and its value with it", gone(err))
	case err != nil:
		return c.fail(err)
	case c.ours(v):
		c.Set, c.State, c.Earlier = v, Applied, nil
		c.note(now, "it was cut short while it was set; the kernel has %d", v)
	case v == c.Found:
		c.close(Failed, now, "it was cut short before it was set: %d as it was", v)
	default:
		c.leave(now, v)
	}
	return nil
}

// rebooted closes a change of an earlier boot. The kernel has forgotten it: nothing is
// written.
func (b *Book) rebooted(c *Change) error {
	now := b.Host.Now()
	v, _, err := b.Kernel.Read(c.Place, c.Sysctl)
	switch {
	case vanished(err):
		c.close(Reverted, now, "by a reboot")
	case err != nil:
		return c.fail(err)
	case c.ours(v):
		c.close(LeftAlone, now, "after a reboot it is %d all the same, so somebody else sets that (sysctl.d?): left alone, it was %d before", v, c.Found)
	default:
		c.close(Reverted, now, "by a reboot: %d", v)
	}
	return nil
}

// end takes a change back. By hand it does so even where entries have no room then.
func (b *Book) end(c *Change, byHand bool) error {
	now := b.Host.Now()
	v, _, err := b.Kernel.Read(c.Place, c.Sysctl)
	switch {
	case vanished(err):
		c.close(Reverted, now, "%s, and its value with it", gone(err))
		return nil
	case err != nil:
		return c.fail(err)
	case v == c.Found:
		c.close(Reverted, now, "it was %d already", v)
		return nil
	case !c.ours(v):
		c.leave(now, v)
		return nil
	}
	room, err := b.room(c)
	if err != nil && !byHand {
		if c.last() != cut(err.Error()) {
			c.note(now, "%s", err)
		}
		return c.fail(err)
	}
	if err := b.write(c.Place, c.Sysctl, c.Found); err != nil {
		return c.fail(err)
	}
	c.close(Reverted, now, "%d again%s", c.Found, room)
	return nil
}

// room says how full the fullest table is with the found limit; too full is an error,
// since new connections would be lost.
func (b *Book) room(c *Change) (string, error) {
	if kindOf(c.Sysctl) != limit || c.Found == 0 {
		return "", nil
	}
	n, err := b.Kernel.Fullest()
	if err != nil {
		return "", nil // not known, and no reason to wait for ever
	}
	text := fmt.Sprintf("; the fullest table has %d entries, %.0f %% of that", n, 100*float64(n)/float64(c.Found))
	if n < c.Found {
		return text, nil
	}
	return text + ": new connections are lost until it is below",
		fmt.Errorf("it waits: the fullest table has %d entries, and with %d no new connection would get in; ctsight relief revert %s does it all the same", n, c.Found, c.ID)
}

// observe notes what others have written while a change holds.
func (b *Book) observe(c *Change) error {
	if c.State != Applied {
		return nil
	}
	now := b.Host.Now()
	v, _, err := b.Kernel.Read(c.Place, c.Sysctl)
	switch {
	case vanished(err):
		c.close(Reverted, now, "%s, and its value with it", gone(err))
	case err != nil:
		return c.fail(err)
	case c.ours(v) && c.Foreign != nil:
		c.Foreign = nil
		c.note(now, "it is %d again", v)
	case !c.ours(v) && (c.Foreign == nil || *c.Foreign != v):
		c.Foreign = &v
		c.note(now, "somebody else has written %d: it stays", v)
	}
	return nil
}

// leave closes what somebody else has written to.
func (c *Change) leave(now time.Time, v uint64) {
	c.close(LeftAlone, now, "somebody else has written %d: left alone; it was found %d and set to %d", v, c.Found, c.Set)
}

func (c *Change) fail(err error) error { return fmt.Errorf("%s (%s): %w", c.Sysctl, c.ID, err) }

// vanished says whether there is no such value any more, not even to come back.
func vanished(err error) bool { return errors.Is(err, ErrGone) || errors.Is(err, os.ErrNotExist) }

func gone(err error) string {
	if errors.Is(err, ErrGone) {
		return ErrGone.Error()
	}
	return "nf_conntrack is not loaded"
}

// write writes a value and looks whether the kernel has it.
func (b *Book) write(p Place, sysctl string, v uint64) error {
	if err := b.Kernel.Write(p, sysctl, v); err != nil {
		return fmt.Errorf("write %d: %w", v, err)
	}
	switch got, _, err := b.Kernel.Read(p, sysctl); {
	case err != nil:
		return err
	case got != v:
		return fmt.Errorf("the kernel made %d of %d", got, v)
	}
	return nil
}

func newID() (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// openOf is the open change of a sysctl, nil for none.
func openOf(all []*Change, p Place, sysctl string) *Change {
	i := slices.IndexFunc(all, func(c *Change) bool {
		same := c.NetNS == p.NetNS && (c.Cookie == 0 || p.Cookie == 0 || c.Cookie == p.Cookie)
		return c.Open() && c.Sysctl == sysctl && same
	})
	if i < 0 {
		return nil
	}
	return all[i]
}

// until is when somebody has to come, a second after the end: who comes too early has
// nothing to do.
func (b *Book) until(c *Change) time.Duration {
	return (max(0, c.Expires.Sub(b.Host.Now())) + 2*time.Second).Truncate(time.Second)
}
