package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// What sections of a recording are that are neither events nor sums (docs/format.md).

// secondState is the state once a second (capture.Second).
type secondState struct {
	Tables   []agg.TableState `json:"tables,omitempty"`
	Pools    []agg.PoolState  `json:"pools,omitempty"`
	PoolSums agg.PoolSums     `json:"pool_sums,omitzero"`
	Loss     agg.Loss         `json:"loss"`
	End      bool             `json:"end,omitempty"` // of the recording: what is open is told
}

// lookStep is a step of looking at contacts (capture.Looks): first those are taken that
// are due, then comes what each has shown.
type lookStep struct {
	Due  bool     `json:"due,omitempty"`
	Seen []uint64 `json:"seen,omitempty"` // packLook
	Tags []byte   `json:"tags,omitempty"` // of the contacts, in the same order
}

// censusStep is a step of the census that is no event (capture.Steps). One of its parts
// is set.
type censusStep struct {
	Begin  bool   `json:"begin,omitempty"`  // of the run: nothing is known yet
	Unsure bool   `json:"unsure,omitempty"` // of an excerpt: the next snapshot knows better
	Seed   string `json:"seed,omitempty"`   // seedBegin, seedEnd, seedWhole
	Forget *int   `json:"forget,omitempty"` // what is live is said anew; expected entries
	Limit  *int   `json:"limit,omitempty"`  // of live entries
	// Due says that the first contacts were taken that are old enough, and Judged what
	// each has shown: one byte of a verdict each.
	Due    bool   `json:"due,omitempty"`
	Judged string `json:"judged,omitempty"`
	Tags   []byte `json:"tags,omitempty"` // of these
}

// do has a census take a step again; not what first contacts have shown.
func (s *censusStep) do(c *agg.Census, at event.Ktime) {
	switch {
	case s.Forget != nil:
		c.Forget(max(0, min(*s.Forget, c.Live()))) // more is no other than that, but for the memory
	case s.Limit != nil:
		c.LimitLive(*s.Limit)
	case s.Seed == seedBegin:
		c.BeginSeed()
	case s.Seed != "":
		c.EndSeed(at, s.Seed == seedWhole)
	}
}

// seedCensus tells a census of an entry that was there.
func seedCensus(c *agg.Census, e *event.Event) bool {
	news := c.Seed(e.NetNS, e.Zone, &e.Orig)
	if news {
		c.SeedPool(e)
	}
	return news
}

// censusOf is the configuration of the census of a recording.
func censusOf(h *capture.Header) agg.CensusConfig {
	if h.Census == nil {
		return agg.CensusConfig{Seed: h.Seed, Sums: true} // as record did
	}
	c := h.Census
	bound := func(n, most int) int { return max(1, min(n, most)) } // nobody else's file takes all memory
	return agg.CensusConfig{MaxRows: bound(c.Rows, 1<<22), MaxLive: bound(c.Live, 1<<24), MaxJudged: bound(c.Judged, 1<<20), MaxPools: bound(c.Pools, 1<<16),
		Sums: c.Sums, Seed: c.Seed}
}

// Readings of tables begin and end, whole or not.
const (
	seedBegin = "begin"
	seedEnd   = "end"
	seedWhole = "whole"
)

// Verdicts of first contacts.
const (
	contactGone     = '-' // its destroy tells
	contactAnswered = '1'
	contactSilent   = '0'
)

// snapshotEnd is about the entries that are in the tables (capture.Held): that they have
// come, behind a capture.Snapshot, and who they are.
type snapshotEnd struct {
	Entries uint64 `json:"entries,omitempty"` // that have come
	Whole   bool   `json:"whole,omitempty"`   // the tables were read to their end
	Buckets uint64 `json:"buckets,omitempty"` // of the hash table, 0 for not known
	Held    []held `json:"held,omitempty"`
	Why     string `json:"why,omitempty"` // there is no Held
}

// held is what sort of entries hold the table of a namespace.
type held struct {
	NetNS event.NetNS   `json:"netns"`
	Held  *agg.Holdings `json:"held"`
}

// tag tells contacts apart that follow one another: who reads a part only has not all
// that were looked at, and some more.
func tag(ptr uint64, at event.Ktime, t *event.Tuple) byte {
	return byte(wyhash.Mix(uint64(at)^ptr, uint64(t.Sport)|uint64(t.Dport)<<16|uint64(t.Proto)<<32))
}

// alignRun is how many contacts in a row have to be the recorded ones, for some of those
// to be passed over: of other tags that many would be so by chance once in 16 million.
const alignRun = 3

// align finds of contacts of a replay which of the recorded ones each is: match[i] is its
// place among those, -1 for one of which that is not sure. Both are in the order of their
// time. Without tags, as before format 1.1, the first is the first.
func align(tags []byte, recorded, n int, of func(i int) byte) (match []int, used int) {
	match = make([]int, n)
	if len(tags) != recorded {
		for i := range match {
			if match[i] = -1; i < recorded {
				match[i] = i
			}
		}
		return match, recorded
	}
	want := make([]byte, n)
	for i := range want {
		want[i] = of(i)
	}
	for i := range want {
		match[i] = -1
		if used < recorded && tags[used] == want[i] {
			match[i], used = used, used+1
		} else if i+alignRun <= n {
			if k := bytes.Index(tags[used:], want[i:i+alignRun]); k >= 0 {
				match[i], used = used+k, used+k+1
			}
		}
	}
	return match, used
}

// packLook puts what a look has shown into a number: bit 0 known, 1 by a query, 2 live,
// 3 to 10 the state of TCP, the status from bit 11 on.
func packLook(s *detect.Seen) (v uint64) {
	for i, is := range []bool{s.Known, s.Query, s.Live} {
		if is {
			v |= 1 << i
		}
	}
	return v | uint64(s.TCPState)<<3 | uint64(s.Status)<<11
}

func unpackLook(v uint64) detect.Seen {
	return detect.Seen{Known: v&1 != 0, Query: v&2 != 0, Live: v&4 != 0, TCPState: event.TCPState(v >> 3), Status: event.Status(v >> 11)}
}

// countsState is a part of a reading of all counters (capture.Counts): of these
// namespaces. It began at the time of its section.
type countsState struct {
	Done  int64         `json:"done_ns"`        // when it had ended
	More  bool          `json:"more,omitempty"` // follows
	Last  bool          `json:"last,omitempty"` // what happens after its beginning is not counted
	NetNS []netnsCounts `json:"netns"`
}

// netnsCounts is a reading of one namespace.
type netnsCounts struct {
	NetNS  event.NetNS       `json:"netns"`
	Name   string            `json:"name,omitempty"`
	Path   string            `json:"path,omitempty"`
	Cookie uint64            `json:"cookie,omitempty"`
	Exists bool              `json:"exists,omitempty"`
	Torn   bool              `json:"torn,omitempty"`
	Err    string            `json:"error,omitempty"`
	Count  uint32            `json:"count,omitempty"`
	Max    uint32            `json:"max,omitempty"`
	Kernel map[string]uint64 `json:"kernel,omitempty"` // words of conntrack -S; what it does not know is not there

	New         uint64            `json:"new,omitempty"`
	NewByUser   uint64            `json:"new_by_user,omitempty"`
	ChainByUser uint64            `json:"chain_by_user,omitempty"`
	ExtPost     uint64            `json:"ext_post,omitempty"`
	Turns       uint64            `json:"turns,omitempty"`
	Reasons     map[string]uint64 `json:"reasons,omitempty"`
	Causes      map[string]uint64 `json:"causes,omitempty"`
}

// countsPerSection is how many namespaces a section has at most: some 200 bytes each.
const countsPerSection = 512

// countsOf are readings as sections.
func countsOf(all map[event.NetNS]reading, done event.Ktime, last bool) (out []countsState) {
	var rows []netnsCounts
	for _, ns := range slices.Sorted(maps.Keys(all)) {
		r := all[ns]
		rows = append(rows, r.counts())
	}
	for len(rows) > countsPerSection {
		out = append(out, countsState{Done: int64(done), More: true, NetNS: rows[:countsPerSection]})
		rows = rows[countsPerSection:]
	}
	return append(out, countsState{Done: int64(done), Last: last, NetNS: rows})
}

func (r *reading) counts() netnsCounts {
	c := netnsCounts{NetNS: r.ns.Inode, Name: r.ns.Name, Path: r.ns.Path, Cookie: r.cookie, Exists: r.exists, Torn: r.torn, Count: r.fill.Count, Max: r.fill.Max,
		Kernel: map[string]uint64{}, New: r.ours.New, NewByUser: r.ours.NewByUser, ChainByUser: r.ours.ChainByUser, ExtPost: r.ours.ExtPost,
		Turns: r.ours.Turns, Reasons: map[string]uint64{}, Causes: map[string]uint64{}}
	if r.err != nil {
		c.Err = r.err.Error()
	}
	for k := range ctnl.NumCounters {
		if n, ok := r.stats.Get(k); ok {
			c.Kernel[k.String()] = n
		}
	}
	for i, n := range r.ours.Reasons {
		if n > 0 {
			c.Reasons[event.Reason(i).String()] = n
		}
	}
	for i, n := range r.ours.Causes {
		if n > 0 {
			c.Causes[event.Cause(i).String()] = n
		}
	}
	return c
}

// reading is what counts was made of. Reasons that this version has no name for are left
// out.
func (c *netnsCounts) reading() reading {
	r := reading{ns: ctnl.NS{Inode: c.NetNS, Name: c.Name, Path: c.Path}, cookie: c.Cookie, exists: c.Exists, torn: c.Torn, fill: ctnl.Fill{Count: c.Count, Max: c.Max},
		ours: probe.Counters{NetNS: c.NetNS, New: c.New, NewByUser: c.NewByUser, ChainByUser: c.ChainByUser, ExtPost: c.ExtPost, Turns: c.Turns}}
	if c.Err != "" {
		r.err = errors.New(c.Err)
	}
	for k := range ctnl.NumCounters {
		if n, ok := c.Kernel[k.String()]; ok {
			r.stats.Known |= 1 << k
			r.stats.N[k] = n
		}
	}
	for name, n := range c.Reasons {
		if x, ok := event.ParseReason(name); ok && x < event.NumReasons {
			r.ours.Reasons[x] = n
		}
	}
	for name, n := range c.Causes {
		if x, ok := event.ParseCause(name); ok && x < event.NumCauses {
			r.ours.Causes[x] = n
		}
	}
	return r
}

// sectionOf is what an item of JSON has.
func sectionOf[T any](x *capture.Item) (s T, err error) {
	if err = json.Unmarshal(x.JSON, &s); err != nil {
		const most = 40
		err = fmt.Errorf("a section of %T %q: %w", s, x.JSON[:min(len(x.JSON), most)], err)
	}
	return s, err
}
