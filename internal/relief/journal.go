package relief

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Disk is a directory, in primitive steps so that tests may end a process between any
// two. Names have no directory in them.
type Disk interface {
	// Lock keeps other processes out until unlock is called. os.ErrNotExist says that
	// there is no directory yet.
	Lock() (unlock func() error, err error)
	// Make makes the directory where there is none.
	Make() error
	List() ([]string, error)
	Read(name string, most int) ([]byte, error)
	// Create writes a new file, and returns when its bytes are on the disk.
	Create(name string, data []byte) error
	Rename(from, to string) error
	// Sync returns when the names of the directory are on the disk.
	Sync() error
	Remove(name string) error
}

// ErrJournal says that a file of the journal cannot be understood. Nothing is changed
// because of it.
var ErrJournal = errors.New("the journal of relief cannot be read whole")

const (
	ending    = ".json"
	temporary = ".tmp" // what a process left that died while it wrote
	// What is closed is kept to be looked at, and goes with later changes.
	keepClosed = 100
	keepFor    = 90 * 24 * time.Hour
)

// journal is one file for each change.
type journal struct{ disk Disk }

// load returns all changes, the oldest first, and what is wrong with files that are
// none.
func (j journal) load() (all []*Change, err error) {
	names, err := j.disk.List()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		id, ok := strings.CutSuffix(name, ending)
		if !ok {
			continue
		}
		c, err := j.read(id)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: %w (nothing is changed because of it; look at it, then remove it)", ErrJournal, name, err))
			continue
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b *Change) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	return all, errors.Join(errs...)
}

func (j journal) read(id string) (*Change, error) {
	data, err := j.disk.Read(id+ending, maxFile)
	if err != nil {
		return nil, err
	}
	return decode(id, data)
}

// save puts a change on the disk, whole or not at all.
func (j journal) save(c *Change) error {
	data, err := c.encode()
	if err != nil {
		return err
	}
	temp := c.ID + temporary
	if err := j.disk.Create(temp, data); err != nil {
		return errors.Join(fmt.Errorf("journal: %w", err), j.drop(temp))
	}
	if err := j.disk.Rename(temp, c.ID+ending); err != nil {
		return errors.Join(fmt.Errorf("journal: %w", err), j.drop(temp))
	}
	if err := j.disk.Sync(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// drop removes what need not be there any more.
func (j journal) drop(name string) error {
	if _, err := j.disk.Read(name, maxFile); err != nil {
		return nil // it is not there, or not ours
	}
	return j.disk.Remove(name)
}

// tidy removes what processes left that died, and what was closed long ago.
func (j journal) tidy(all []*Change, now time.Time) error {
	names, err := j.disk.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if id, ok := strings.CutSuffix(name, temporary); ok && idForm.MatchString(id) {
			errs = append(errs, j.disk.Remove(name))
		}
	}
	closed := slices.DeleteFunc(slices.Clone(all), func(c *Change) bool { return c.Open() })
	for i, c := range closed {
		if len(closed)-i > keepClosed || now.Sub(c.Closed) > keepFor {
			errs = append(errs, j.disk.Remove(c.ID+ending))
		}
	}
	return errors.Join(errs...)
}
