// Package relief changes sysctls of nf_conntrack for a while, so that none is
// forgotten: what was found, what was set, why, by whom and until when is in a
// journal before the kernel is told, and whoever comes first after the end (the
// daemon, a timer, the next start) writes the found value back. Where somebody else
// has written meanwhile, theirs stays.
//
// A change is intended, then applied, then closed: reverted, or left alone. A process
// may die between any two steps; the next one looks at the value that the kernel has
// and goes on from there:
//
//	intended, found value      it was never written: closed
//	intended, a value of ours  it was written: applied
//	applied, a value of ours   the found value is written when its time is over
//	applied, found value       somebody was faster: closed when its time is over
//	applied, any other         somebody else's: left alone, with a message
//
// Nothing else in ctsight writes a sysctl of conntrack.
package relief

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// State is how far a change is.
type State string

// States. The last three are closed.
const (
	Intended  State = "intended"   // in the journal; the kernel may know of it or not
	Applied   State = "applied"    // the kernel has it
	Reverted  State = "reverted"   // the found value is back
	LeftAlone State = "left_alone" // somebody else has written; theirs stays
	Failed    State = "failed"     // it was never there: the kernel refused, or nobody came to write it
)

// Change is one temporary change of one sysctl, as the journal has it.
type Change struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	State   State  `json:"state"`
	Place
	Sysctl string `json:"sysctl"`
	Found  uint64 `json:"found"` // what comes back
	Set    uint64 `json:"set"`
	// Earlier are values that this change had before it was made anew; any of them
	// may be what the kernel has when a process died in between.
	Earlier []uint64      `json:"earlier,omitempty"`
	Reason  string        `json:"reason"`
	Who     Who           `json:"who"`
	Boot    string        `json:"boot"` // /proc/sys/kernel/random/boot_id
	At      time.Time     `json:"at"`
	Expires time.Time     `json:"expires"`
	Uptime  time.Duration `json:"uptime_ns"`         // since boot, at At: holds where the clock is set
	Closed  time.Time     `json:"closed,omitzero"`   // when it ended
	Foreign *uint64       `json:"foreign,omitempty"` // what somebody else wrote last
	Notes   []Note        `json:"notes,omitempty"`   // the newest last
	Omitted int           `json:"omitted,omitempty"` // notes that made room for newer ones
	Sum     string        `json:"sum"`               // crc32c of the file with "" for it
}

// Place is a network namespace.
type Place struct {
	NetNS  event.NetNS `json:"netns"`                 // inode
	Name   string      `json:"netns_name,omitempty"`  // as it was called then
	Cookie uint64      `json:"netns_cookie,omitzero"` // of the kernel, never used again before a reboot; 0 before 5.14
}

// Who made a change.
type Who struct {
	UID   int    `json:"uid"`
	Login string `json:"login,omitempty"` // who logged in, before sudo
	PID   int    `json:"pid"`
}

// Note is what happened to a change.
type Note struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// version is that of the journal's files. One of another is not read, and nothing is
// changed because of it.
const version = 1

const (
	maxFile  = 64 << 10 // bytes
	maxNotes = 16
	maxText  = 400                 // of a reason or a note, bytes
	MaxFor   = 30 * 24 * time.Hour // how long a change may last
)

// Open says whether there is something to take back.
func (c *Change) Open() bool { return c.State == Intended || c.State == Applied }

// ours says whether a value is one that this change has written, or may have.
func (c *Change) ours(v uint64) bool { return v == c.Set || slices.Contains(c.Earlier, v) }

// due says whether its time is over: by the wall clock or, in the same boot, by the
// time since. Whichever says so first: a clock that is set back delays nothing.
func (c *Change) due(h *Host) bool {
	return !h.Now().Before(c.Expires) || c.Boot == h.Boot && h.Uptime()-c.Uptime >= c.Expires.Sub(c.At)
}

func (c *Change) note(at time.Time, format string, args ...any) {
	c.Notes = append(c.Notes, Note{at.UTC().Truncate(time.Second), cut(fmt.Sprintf(format, args...))})
	if over := len(c.Notes) - maxNotes; over > 0 {
		c.Notes, c.Omitted = c.Notes[over:], c.Omitted+over
	}
}

func (c *Change) close(s State, at time.Time, format string, args ...any) {
	c.State, c.Closed = s, at.UTC().Truncate(time.Second)
	c.note(at, format, args...)
}

func cut(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}

// last is the newest note.
func (c *Change) last() string {
	if len(c.Notes) == 0 {
		return ""
	}
	return c.Notes[len(c.Notes)-1].Text
}

var idForm = regexp.MustCompile(`^[0-9a-f]{8}$`)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *Change) encode() ([]byte, error) {
	plain := *c
	plain.Sum = ""
	b, err := json.MarshalIndent(&plain, "", "  ")
	if err != nil {
		return nil, err
	}
	plain.Sum = fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli))
	b, err = json.MarshalIndent(&plain, "", "  ")
	return append(b, '\n'), err
}

// decode reads a file of the journal, strictly: what is not understood whole is an
// error.
func decode(id string, data []byte) (*Change, error) {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if head.Version != version {
		return nil, fmt.Errorf("version %d, this ctsight knows %d only: use the one that wrote it", head.Version, version)
	}
	c := &Change{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it is damaged: there is more after its end")
	}
	if err := c.sound(id); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if again, err := c.encode(); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("it is damaged: its sum does not fit")
	}
	return c, nil
}

// sound refuses what set would never have written.
func (c *Change) sound(id string) error {
	known := slices.Contains([]State{Intended, Applied, Reverted, LeftAlone, Failed}, c.State)
	name, err := Canonical(c.Sysctl)
	lasts := c.Expires.Sub(c.At)
	switch {
	case c.ID != id || !idForm.MatchString(id):
		return fmt.Errorf("id %.20q in the file %.20q", c.ID, id)
	case !known:
		return fmt.Errorf("state %.20q", c.State)
	case err != nil || name != c.Sysctl:
		return fmt.Errorf("sysctl %.40q", c.Sysctl)
	case c.NetNS == 0:
		return errors.New("no network namespace")
	case c.Boot == "":
		return errors.New("no boot id")
	case lasts <= 0 || lasts > MaxFor+maxJitter:
		return fmt.Errorf("it lasts for %s", lasts)
	case c.Found > 1<<32-1:
		return fmt.Errorf("found value %d", c.Found)
	}
	for _, v := range append([]uint64{c.Set}, c.Earlier...) {
		if err := (Ask{c.Sysctl, v}).check(); err != nil {
			return err
		}
		if global(c.Sysctl) && v <= c.Found {
			return fmt.Errorf("%s is set to %d and found %d: relief never lowers it", c.Sysctl, v, c.Found)
		}
	}
	return nil
}
