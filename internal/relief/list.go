package relief

import (
	"errors"
	"fmt"
	"os"

	"github.com/ctsight/ctsight/internal/agg"
)

// List tells of all changes, the oldest first, with what the kernel has now. It changes
// nothing, also not in the journal.
func (b *Book) List() ([]agg.Relief, error) {
	unlock, err := b.Disk.Lock()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := journal{b.Disk}.load()
	err = errors.Join(err, unlock())
	var out []agg.Relief
	for _, c := range all {
		_ = b.settle(c) // as whoever may write it will; what cannot be read stays as it is
		out = append(out, b.Tell(c))
	}
	return out, err
}

// Tell is a change as it is shown.
func (b *Book) Tell(c *Change) agg.Relief {
	r := agg.Relief{ID: c.ID, State: string(c.State), Open: c.Open(), Overdue: c.Open() && c.due(&b.Host), Sysctl: c.Sysctl, NetNS: c.NetNS, NetNSName: c.Name,
		Found: c.Found, Set: c.Set, Reason: c.Reason, Who: c.Who.String(), At: c.At, Expires: c.Expires, Closed: c.Closed}
	if c.Open() {
		if v, _, err := b.Kernel.Read(c.Place, c.Sysctl); err == nil {
			r.Present = &v
			r.Overdue = r.Overdue && v != c.Found // else it is back, and the journal is behind
		}
	}
	for _, n := range c.Notes {
		r.Notes = append(r.Notes, agg.ReliefNote(n))
	}
	return r
}

// String is a login, or a number.
func (w Who) String() string {
	if w.Login != "" {
		return w.Login
	}
	return fmt.Sprintf("uid %d", w.UID)
}
