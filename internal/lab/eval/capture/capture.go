// Package capture joins what happened with who is known to have done it.
package capture

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

// Role is what a source is to a detector of scans.
type Role uint8

// Roles.
const (
	Below   Role = iota // malicious, but with fewer than ten failing endpoints: not counted either way
	Scanner             // to be found
	Benign              // not to be flagged
	Other               // password guessing or retries: not to be called a scan
)

// Source is what is known of a source.
type Source struct {
	Net     netip.Prefix // an address, or the prefix that it changes its address in
	Class   string       // the data set's word
	Role    Role
	Failing int // distinct endpoints that it failed at
	// Since is its first probe, where that is not its first contact.
	Since event.Ktime
}

// Capture is a recording of known truth.
type Capture struct {
	Name    string
	Path    string    // the file it is in, "" for none
	Start   time.Time // of the first line
	Lines   []ctreplay.Line
	Sources []Source
}

// Length is how long it lasts.
func (c *Capture) Length() time.Duration {
	if len(c.Lines) == 0 {
		return 0
	}
	var last event.Ktime
	for i := len(c.Lines) - 1; i >= 0; i-- { // timeouts come after the traffic
		if c.Lines[i].What == 'N' {
			last = c.Lines[i].Event.Time
			break
		}
	}
	return last.Sub(c.Lines[0].Event.Time)
}

// Tries are the first contacts of each source, by its place in Sources, in the order
// of time: one for each endpoint.
func (c *Capture) Tries() [][]event.Ktime {
	type edge struct {
		source int
		dst    netip.Addr
		port   uint16
		proto  uint8
	}
	places, seen := c.places(), map[edge]bool{}
	out := make([][]event.Ktime, len(c.Sources))
	for i := range c.Lines {
		l := &c.Lines[i]
		if l.What != 'N' {
			continue
		}
		at, ok := place(places, l.Event.Orig.Src)
		if e := (edge{at, l.Event.Orig.Dst, l.Event.Orig.Dport, l.Event.Orig.Proto}); ok && !seen[e] && l.Event.Time >= c.Sources[at].Since {
			seen[e] = true
			out[at] = append(out[at], l.Event.Time)
		}
	}
	return out
}

func (c *Capture) places() map[netip.Prefix]int {
	out := make(map[netip.Prefix]int, len(c.Sources))
	for i := range c.Sources {
		out[c.Sources[i].Net] = i
	}
	return out
}

func place(places map[netip.Prefix]int, a netip.Addr) (int, bool) {
	for _, bits := range []int{a.BitLen(), 64} {
		if p, err := a.Prefix(bits); err == nil {
			if i, ok := places[p]; ok {
				return i, true
			}
		}
	}
	return 0, false
}

// Of returns the source that an address belongs to, nil for none.
func (c *Capture) Of(a netip.Addr) *Source {
	for i := range c.Sources {
		if c.Sources[i].Net.Contains(a) {
			return &c.Sources[i]
		}
	}
	return nil
}

// Count returns how many sources of a role have failed at that many endpoints.
func (c *Capture) Count(r Role, failing int) (n int) {
	for i := range c.Sources {
		if c.Sources[i].Role == r && c.Sources[i].Failing >= failing {
			n++
		}
	}
	return n
}

// Replays are the captures that come as events (shared/data/README.md).
var Replays = []string{"23-tcp-scan", "synscan", "slips-horizontal", "slips-vertical", "strat008", "strat011",
	"westermo-right", "gnutella-p2p", "rita-proxy", "rita-proxy-rolling", "ssh-bruteforce", "zeek-sshguess"}

// Public returns the replays with their truth.
func Public() ([]Capture, error) {
	dir, err := ctreplay.Find()
	if err != nil {
		return nil, err
	}
	truth, err := readTruth(filepath.Join(dir, "truth.tsv"))
	if err != nil {
		return nil, err
	}
	out := make([]Capture, len(Replays))
	for i, name := range Replays {
		c := Capture{Name: name, Sources: truth[name], Path: ctreplay.Path(dir, name)}
		if c.Lines, c.Start, err = ctreplay.Load(dir, name); err != nil {
			return nil, err
		}
		if len(c.Sources) == 0 {
			return nil, fmt.Errorf("%s: no truth", name)
		}
		out[i] = c
	}
	return out, nil
}

func readTruth(path string) (map[string][]Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]Source{}
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		w := strings.Split(s.Text(), "\t")
		if len(w) < 6 {
			return nil, fmt.Errorf("%s:%d: %d fields", path, n, len(w))
		}
		a, err := netip.ParseAddr(w[1])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		v := Source{Net: netip.PrefixFrom(a, a.BitLen()), Class: w[2]}
		if v.Failing, err = strconv.Atoi(w[5]); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		v.Role = roleOf(v.Class, v.Failing)
		out[w[0]] = append(out[w[0]], v)
	}
	return out, s.Err()
}

func roleOf(class string, failing int) Role {
	switch {
	case strings.HasPrefix(class, "benign"):
		return Benign
	case strings.HasPrefix(class, "scanner") && failing >= tenFailing:
		return Scanner
	case strings.HasPrefix(class, "bruteforce"), strings.HasPrefix(class, "retry"):
		return Other
	}
	return Below
}
