package view

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

// ReliefDoc is what `ctsight relief` tells: changes that are, or that would be.
type ReliefDoc struct {
	At      time.Time
	Changes []agg.Relief
	Set     *ReliefSet // of set only
}

// ReliefSet is what set does, beside its changes.
type ReliefSet struct {
	DryRun  bool
	For     time.Duration
	Memory  *ReliefMemory // nil where none is taken
	TooMuch string        // why it needs --force
	Entries uint64        // of the fullest table, where the limit is changed
	Warning string
	Ends    string // who takes it back
}

// ReliefMemory is what a full table takes, before and after.
type ReliefMemory struct {
	Before, After, Total, Available uint64 // bytes
	Entry                           int    // bytes of one, with its extensions
	MaxBefore, MaxAfter             uint64
	BucketsBefore, BucketsAfter     uint64
}

type reliefJSON struct {
	At      stamp          `json:"at"`
	DryRun  *bool          `json:"dry_run,omitempty"`
	Changes []reliefChange `json:"changes"`
	Memory  *reliefMemory  `json:"memory,omitempty"`
	TooMuch outside        `json:"too_much,omitempty"`
	Warning outside        `json:"warning,omitempty"`
}

type reliefChange struct {
	ID        outside      `json:"id,omitempty"`
	State     outside      `json:"state,omitempty"`
	Open      bool         `json:"open"`
	Overdue   bool         `json:"overdue"`
	Sysctl    outside      `json:"sysctl"`
	NetNS     uint32       `json:"netns"`
	NetNSName outside      `json:"netns_name,omitempty"`
	Found     uint64       `json:"found"`
	Set       uint64       `json:"set"`
	Present   *uint64      `json:"present"`
	Reason    outside      `json:"reason"`
	Who       outside      `json:"who"`
	Start     *stamp       `json:"start"`
	Expires   stamp        `json:"expires"`
	Closed    *stamp       `json:"closed"`
	Notes     []reliefNote `json:"notes"`
}

type reliefNote struct {
	At   stamp   `json:"at"`
	Text outside `json:"text"`
}

type reliefMemory struct {
	Before        uint64 `json:"before_bytes"`
	After         uint64 `json:"after_bytes"`
	Total         uint64 `json:"total_bytes"`
	Available     uint64 `json:"available_bytes"`
	Entry         int    `json:"entry_bytes"`
	BucketsBefore uint64 `json:"buckets_before"`
	BucketsAfter  uint64 `json:"buckets_after"`
}

// WriteReliefJSON writes a ReliefDoc as one JSON object and a newline.
func WriteReliefJSON(w io.Writer, d *ReliefDoc, n Names) error {
	doc := reliefJSON{At: stamp(d.At), Changes: []reliefChange{}}
	for i := range d.Changes {
		doc.Changes = append(doc.Changes, changeJSON(&d.Changes[i], n))
	}
	if s := d.Set; s != nil {
		doc.DryRun, doc.TooMuch, doc.Warning = &s.DryRun, outside(s.TooMuch), outside(s.Warning)
		if m := s.Memory; m != nil {
			doc.Memory = &reliefMemory{m.Before, m.After, m.Total, m.Available, m.Entry, m.BucketsBefore, m.BucketsAfter}
		}
	}
	return writeJSON(w, doc)
}

func changeJSON(r *agg.Relief, n Names) reliefChange {
	c := reliefChange{ID: outside(r.ID), State: outside(r.State), Open: r.Open, Overdue: r.Overdue, Sysctl: outside(r.Sysctl), NetNS: uint32(r.NetNS),
		NetNSName: outside(n.table(r.NetNS, r.NetNSName)), Found: r.Found, Set: r.Set, Present: r.Present, Reason: outside(r.Reason), Who: outside(r.Who),
		Start: stampOf(r.At), Expires: stamp(r.Expires), Closed: stampOf(r.Closed), Notes: []reliefNote{}}
	for _, x := range r.Notes {
		c.Notes = append(c.Notes, reliefNote{stamp(x.At), outside(x.Text)})
	}
	return c
}

// stampOf is nil for no time.
func stampOf(t time.Time) *stamp {
	if t.IsZero() {
		return nil
	}
	s := stamp(t)
	return &s
}

// WriteReliefText writes changes for people: a line for each, and what happened to it.
func WriteReliefText(w io.Writer, d *ReliefDoc, n Names, color bool) error {
	b := []byte{}
	if d.Set != nil {
		b = appendReliefSet(b, d, n)
		_, err := w.Write(b)
		return err
	}
	if len(d.Changes) == 0 {
		_, err := io.WriteString(w, "no changes\n")
		return err
	}
	t := table{color: color, columns: []tableColumn{{title: "id"}, {title: "state", sgr: reliefColour}, {title: "sysctl"}, {title: "netns"}, {title: "found", right: true},
		{title: "set", right: true}, {title: "now", right: true}, {title: "expires (UTC)"}, {title: "reason"}, {title: "by"}}}
	for i := range d.Changes {
		r := &d.Changes[i]
		now := ""
		if r.Present != nil {
			now = strconv.FormatUint(*r.Present, 10)
		}
		t.add(safeName(r.ID), ReliefState(r), safeName(r.Sysctl), n.TableText(&agg.TableState{NetNS: r.NetNS, Name: r.NetNSName}), strconv.FormatUint(r.Found, 10),
			strconv.FormatUint(r.Set, 10), now, r.Expires.UTC().Format(time.DateTime), safeName(r.Reason), safeName(r.Who))
	}
	b = t.append(b)
	for i := range d.Changes {
		for _, x := range d.Changes[i].Notes {
			b = fmt.Appendf(b, "%s  %s  %s\n", safeName(d.Changes[i].ID), x.At.UTC().Format(time.DateTime), safeText(x.Text))
		}
	}
	_, err := w.Write(b)
	return err
}

// ReliefState is how far a change is, in words.
func ReliefState(r *agg.Relief) string {
	if r.Overdue {
		return "overdue"
	}
	return strings.ReplaceAll(safeName(r.State), "_", " ")
}

func reliefColour(cell string) string {
	switch cell {
	case "overdue", "left alone", "failed":
		return red
	case "applied":
		return yellow
	}
	return ""
}

func appendReliefSet(b []byte, d *ReliefDoc, n Names) []byte {
	s := d.Set
	for i := range d.Changes {
		r := &d.Changes[i]
		b = fmt.Appendf(b, "%s  %d", safeName(r.Sysctl), r.Found)
		if r.Present != nil && *r.Present != r.Found && *r.Present != r.Set {
			b = fmt.Appendf(b, " (found), %d now", *r.Present)
		}
		b = fmt.Appendf(b, " -> %d, in network namespace %s", r.Set, n.TableText(&agg.TableState{NetNS: r.NetNS, Name: r.NetNSName}))
		if r.ID != "" {
			b = fmt.Appendf(b, ", id %s", safeName(r.ID))
		}
		b = append(b, '\n')
		for _, x := range r.Notes {
			b = fmt.Appendf(b, "  %s\n", safeText(x.Text))
		}
	}
	if m := s.Memory; m != nil {
		b = appendReliefMemory(b, m)
	}
	if s.Entries > 0 {
		b = fmt.Appendf(b, "  the fullest table has %d entries\n", s.Entries)
	}
	if len(d.Changes) > 0 {
		r := &d.Changes[0]
		b = fmt.Appendf(b, "until %s UTC (%s), %s: %s\n", r.Expires.UTC().Format(time.DateTime), span(s.For), safeText(r.Reason), s.Ends)
	}
	switch {
	case s.TooMuch != "":
		return fmt.Appendf(b, "%s%s\n", map[bool]string{true: "nothing was changed: "}[s.DryRun], safeText(s.TooMuch))
	case s.DryRun:
		return append(b, "dry run: nothing was changed; --yes changes it\n"...)
	}
	return b
}

func appendReliefMemory(b []byte, m *ReliefMemory) []byte {
	mib := func(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	b = fmt.Appendf(b, "  a full table takes %s of kernel memory now, %s then", mib(m.Before), mib(m.After))
	if m.Total > 0 {
		b = fmt.Appendf(b, ": %.1f %% of %s; %s are available", 100*float64(m.After)/float64(m.Total), mib(m.Total), mib(m.Available))
	}
	return fmt.Appendf(b, "\n  (up to %d bytes an entry, %d buckets of 8 bytes then)\n", m.Entry, m.BucketsAfter)
}
