package feed

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Listed is a source that may be blocked, and until when.
type Listed struct {
	Prefix  netip.Prefix
	Expires time.Time
}

// List is who may be blocked at one moment: a value, and the same for the same findings.
type List struct {
	entries []Listed // by address, IPv4 first, the wider of two before the narrower
	text    []byte
	tag     string
}

// Place is a part of the network whose addresses are not those of another.
type Place struct {
	NetNS event.NetNS
	Zone  uint16
}

// NewList makes the list of the findings that may be listed at a time. in, where it is
// not nil, is the only place whose findings count.
func NewList(all []agg.Finding, p *Policy, now time.Time, in *Place) *List {
	until := map[netip.Prefix]time.Time{}
	for i := range all {
		f := &all[i]
		if in != nil && (*in != Place{f.NetNS, f.Zone}) || p.Why(f, now) != "" {
			continue
		}
		if key, ok := normal(f.Source); ok && f.Expires.After(until[key]) {
			until[key] = f.Expires
		}
	}
	l := &List{entries: make([]Listed, 0, len(until))}
	for prefix, t := range until {
		l.entries = append(l.entries, Listed{prefix, t})
	}
	slices.SortFunc(l.entries, func(a, b Listed) int { return a.Prefix.Compare(b.Prefix) })
	l.write()
	return l
}

// Entries are the sources, by address. Nobody may change them.
func (l *List) Entries() []Listed { return l.entries }

// head says what it is to who finds it somewhere. It has no time in it: the same list
// is the same bytes.
const head = `# ctsight block list: sources whose attack is confirmed, that are not spoofable, not
# allowed and not expired. One address or prefix a line, sorted.
`

func (l *List) write() {
	b := []byte(head)
	for _, e := range l.entries {
		if e.Prefix.IsSingleIP() {
			b = e.Prefix.Addr().AppendTo(b)
		} else {
			b = e.Prefix.AppendTo(b)
		}
		b = append(b, '\n')
	}
	sum := sha256.Sum256(b)
	l.text, l.tag = b, strconv.Quote(hex.EncodeToString(sum[:16]))
}

// Text is the list as a file.
func (l *List) Text() []byte { return l.text }

// ETag is a strong validator of Text (RFC 9110, section 8.8.3).
func (l *List) ETag() string { return l.tag }

// Lists are the lists of findings that change: made once a second at most, however many
// ask. Its methods may be called by any goroutine.
type Lists struct {
	Findings func() []agg.Finding
	Policy   *Policy
	Now      func() time.Time

	mu   sync.Mutex
	made map[Place]made
}

type made struct {
	at   time.Time
	list *List
}

// fresh is how old a list may be.
const fresh = time.Second

// All is the list of every place.
func (l *Lists) All() *List { return l.list(Place{}, nil) }

// In is the list of one place.
func (l *Lists) In(p Place) *List { return l.list(p, &p) }

func (l *Lists) list(key Place, in *Place) *List {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Now()
	if m := l.made[key]; m.list != nil && now.Sub(m.at) >= 0 && now.Sub(m.at) < fresh {
		return m.list
	}
	m := made{now, NewList(l.Findings(), l.Policy, now, in)}
	if l.made == nil {
		l.made = map[Place]made{}
	}
	l.made[key] = m
	return m.list
}

// Forget has the next list made anew: the allow list has changed.
func (l *Lists) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made = nil
}
