package event

import (
	"strconv"
	"strings"
	"testing"
)

func TestReasons(t *testing.T) {
	seen := map[string]bool{}
	last := Reason(0)
	for _, r := range Reasons {
		if r.Reason <= last || r.Reason >= NumReasons {
			t.Errorf("%s: number %d out of order or range", r.Name, uint8(r.Reason))
		}
		last = r.Reason
		if seen[r.Name] || r.Name == "" || r.Name != strings.ToLower(r.Name) {
			t.Errorf("%q: empty, not lower case, or used twice", r.Name)
		}
		seen[r.Name] = true
		if r.Kernel == "" || r.Do == "" {
			t.Errorf("%s: says nothing in help reasons", r.Name)
		}
	}
	for r, want := range map[Reason]Kind{ReasonNone: 0, TableFull: Drop, LookupUnknown: Drop, ClashMerged: Note,
		CreateRefused: Note, InvalidPacket: Invalid, ICMPErrorPacket: Invalid} {
		if got := r.Kind(); got != want {
			t.Errorf("%s: kind %s, want %s", r, got, want)
		}
	}
	if !RulesetNew.IsRuleset() || !RulesetInvalid.IsRuleset() || TableFull.IsRuleset() {
		t.Error("IsRuleset")
	}
	// Every number, known or not, must survive printing and reading.
	for n := range 256 {
		r := Reason(n)
		if got, ok := ParseReason(r.String()); !ok || got != r {
			t.Errorf("%d prints as %q and reads as %d, %v", n, r, got, ok)
		}
	}
	for _, bad := range []string{"", "tablefull", "256", "-1", "TABLE_FULL"} {
		if got, ok := ParseReason(bad); ok {
			t.Errorf("ParseReason(%q) = %v", bad, got)
		}
	}
}

func TestCauses(t *testing.T) {
	seen := map[string]bool{}
	for i, c := range Causes {
		if int(c.Cause) != i {
			t.Errorf("%s: at place %d, number %d: String would lie", c.Name, i, uint8(c.Cause))
		}
		if seen[c.Name] || c.Name == "" || c.Kernel == "" {
			t.Errorf("%q: empty, without text, or used twice", c.Name)
		}
		seen[c.Name] = true
	}
	if len(Causes) > NumCauses {
		t.Errorf("%d causes, counters for %d", len(Causes), NumCauses)
	}
	for n := range 256 {
		c := Cause(n)
		if got, ok := ParseCause(c.String()); !ok || got != c {
			t.Errorf("%d prints as %q and reads as %d, %v", n, c, got, ok)
		}
	}
}

func TestKinds(t *testing.T) {
	for k := New; k <= Invalid; k++ {
		if got, ok := ParseKind(k.String()); !ok || got != k {
			t.Errorf("%d prints as %q and reads as %d, %v", k, k, got, ok)
		}
	}
	for _, bad := range []string{"", "0", "NEW", "update"} {
		if got, ok := ParseKind(bad); ok {
			t.Errorf("ParseKind(%q) = %v", bad, got)
		}
	}
	if got := Kind(0).String() + Kind(9).String(); got != "09" {
		t.Errorf("unknown kinds print as %q", got)
	}
}

func TestProtos(t *testing.T) {
	for n := range 256 {
		p := uint8(n)
		if got, ok := ParseProto(ProtoName(p)); !ok || got != p {
			t.Errorf("%d prints as %q and reads as %d, %v", n, ProtoName(p), got, ok)
		}
		if got, ok := ParseProto(strconv.Itoa(n)); !ok || got != p {
			t.Errorf("number %d reads as %d, %v", n, got, ok)
		}
	}
}

func TestStatus(t *testing.T) {
	for i := range 32 {
		names := Status(1 << i).Names()
		if len(names) != 1 {
			t.Fatalf("bit %d: names %v", i, names)
		}
		if got, ok := ParseStatus(names[0]); !ok || got != 1<<i {
			t.Errorf("%s reads as %#x, %v", names[0], got, ok)
		}
		if n := StatusName(i); n != "" && n != names[0] {
			t.Errorf("bit %d: %q and %q", i, n, names[0])
		}
	}
	if got := strings.Join((Assured | SeenReply | Confirmed).Names(), " "); got != "seen_reply assured confirmed" {
		t.Errorf("got %q", got)
	}
	if got, ok := ParseStatus("ASSURED"); !ok || got != Assured {
		t.Errorf("conntrack(8)'s ASSURED reads as %#x, %v", got, ok)
	}
	if StatusName(-1) != "" || StatusName(16) != "" {
		t.Error("a bit that does not exist has a name")
	}
	for _, bad := range []string{"", "bit", "bit32", "bit-1", "replied"} {
		if got, ok := ParseStatus(bad); ok {
			t.Errorf("ParseStatus(%q) = %#x", bad, got)
		}
	}
}

func TestStatesAndHooks(t *testing.T) {
	for s := TCPState(1); s <= 10; s++ {
		if got, ok := ParseTCPState(strings.ToLower(s.String())); !ok || got != s {
			t.Errorf("%d prints as %q and reads as %d, %v", s, s, got, ok)
		}
	}
	for h := Hook(1); h <= 5; h++ {
		if got, ok := ParseHook(strings.ToUpper(h.String())); !ok || got != h {
			t.Errorf("%d prints as %q and reads as %d, %v", h, h, got, ok)
		}
	}
	if TCPState(11).String() != "10" || Hook(6).String() != "5" {
		t.Error("an unknown number must print as the kernel's number")
	}
	if TCPNone.String() != "" || Hook(0).String() != "" {
		t.Error("nothing must print as nothing")
	}
}

func TestTCPFlags(t *testing.T) {
	for f, want := range map[TCPFlags]string{0: "none", SYN | ACK: "S.", FIN | PSH | URG: "FPU", FIN | ACK: "F.", RST: "R", 0xff: "FSRP.UEW"} {
		if got := f.String(); got != want {
			t.Errorf("%#x: %s, want %s", uint8(f), got, want)
		}
	}
	for i, want := range []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"} {
		if got := TCPFlagName(i); got != want {
			t.Errorf("bit %d: %s, want %s", i, got, want)
		}
	}
}
