package view

import (
	"bytes"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

// reliefs are a change of each kind, with names from outside that are hostile.
func reliefs() []agg.Relief {
	at := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	return []agg.Relief{
		{ID: "3f9c12ab", State: "applied", Open: true, Sysctl: "nf_conntrack_max", NetNS: 4026531840, Found: 262144, Set: 524288, Present: new(uint64(524288)),
			Reason: "INC-42", Who: "alice", At: at, Expires: at.Add(2 * time.Hour)},
		{ID: "01234567", State: "applied", Open: true, Overdue: true, Sysctl: "nf_conntrack_udp_timeout", NetNS: 4026532175, NetNSName: "ro\x1b[31muter", Found: 30, Set: 10,
			Present: new(uint64(10)), Reason: "INC-42\n\u202e<b>", Who: "uid 0", At: at.Add(-time.Hour), Expires: at.Add(-time.Minute),
			Notes: []agg.ReliefNote{{At: at, Text: "it waits: \x1b]52;"}}},
		{ID: "89abcdef", State: "left_alone", Sysctl: "nf_conntrack_max", NetNS: 4026531840, Found: 262144, Set: 524288, Reason: "INC-41", Who: "bob",
			At: at.Add(-3 * time.Hour), Expires: at.Add(-2 * time.Hour), Closed: at.Add(-2 * time.Hour),
			Notes: []agg.ReliefNote{{At: at.Add(-2 * time.Hour), Text: "somebody else has written 393216: left alone; it was found 262144 and set to 524288"}}},
	}
}

func TestRelief(t *testing.T) {
	at := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	list := &ReliefDoc{At: at, Changes: reliefs()}
	set := &ReliefDoc{At: at, Changes: reliefs()[:1], Set: &ReliefSet{DryRun: true, For: 2 * time.Hour, Entries: 200000, Ends: "systemd takes it back",
		Memory: &ReliefMemory{Before: 101187584, After: 201850880, Total: 16 << 30, Available: 8 << 30, Entry: 384, BucketsAfter: 65536}}}
	much := &ReliefDoc{At: at, Changes: reliefs()[1:2], Set: &ReliefSet{DryRun: true, For: time.Hour, TooMuch: "a full table would take 79.7 % of all memory", Warning: "no systemd here"}}
	for name, d := range map[string]*ReliefDoc{"list": list, "none": {At: at}, "set": set, "much": much} {
		var text, doc bytes.Buffer
		if err := WriteReliefText(&text, d, Names{}, name == "list"); err != nil {
			t.Fatal(err)
		}
		if err := WriteReliefJSON(&doc, d, Names{}); err != nil {
			t.Fatal(err)
		}
		golden(t, "relief_"+name+".txt", text.Bytes())
		golden(t, "relief_"+name+".json", doc.Bytes())
	}
}
