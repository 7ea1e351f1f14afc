package agg

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// States of a finding.
const (
	Suspect   = "suspect"   // the test has crossed its threshold
	Confirmed = "confirmed" // and nothing benign explains it
	Cleared   = "cleared"   // it is over, or was explained
)

// Severities of a finding: who wants to know.
const (
	Page = "page" // a human, now
	Feed = "feed" // machines
	Info = "info" // who looks
)

// Urgency orders severities: 0 is the most urgent.
func Urgency(severity string) int {
	if i := slices.Index([]string{Page, Feed, Info}, severity); i >= 0 {
		return i
	}
	return 3
}

// Finding is an incident: contract, section 6. A plain value: whoever has it may
// keep it and must not change it.
type Finding struct {
	ID    string // the same for the same events
	Class string // closed list of the contract
	Shape string // of a scan: horizontal, vertical, block, strobe
	State string
	// Excused: it was cleared because it was none after all, and not because it is over.
	Excused  bool
	Severity string
	NetNS    event.NetNS
	Zone     uint16
	Source   netip.Prefix // an address or a prefix; invalid where there is none
	Target   Target       // zero where there is not one

	Time        time.Time // when it was last told
	First, Last time.Time // of its evidence
	Raised      int       // how often it was told as an alarm: once, then after 10 min, 1 h, 24 h, 7 d

	Evidence             Evidence
	Statistic, Threshold float64

	Why          string // one sentence with the numbers in it
	WhyNotBenign string // "" where nothing benign was ruled out
	// Spoofable: nothing has shown that packets of this source come from there.
	Spoofable bool
	// Suppress is why neither a list nor the pager takes it, "" for nothing: who
	// allows it and until when.
	Suppress string
	Expires  time.Time // when a list should forget it
	Loss     Loss      // of our own records, from First to Time; its stages are left out
	// Recording is the directory that the flight recorder has kept around it, "" for none.
	// Who hands it out says so, and not who finds it: a replay finds the same.
	Recording string
}

// Target is what a finding is about on the other side: an endpoint, an address or
// a port. What is zero is any.
type Target struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// Evidence is what a finding rests on, counted from First to Last. First contacts
// are those of a source with an endpoint (destination, port, protocol), by what
// became of them; a number that is not exact is not here.
type Evidence struct {
	Contacts   uint64 // first contacts that failed or were answered, or are pending
	Attempts   uint64 // failed connections, those that were tried again among them
	Answered   uint64
	Refused    uint64 // RST
	Unanswered uint64 // nothing came back within 3 s
	HalfOpen   uint64 // the client took back what the server had accepted
	Invalid    uint64 // probes that no entry is made for
	Pending    uint64 // not decided yet
	Excused    uint64 // failed, but the endpoint was good within the last hour or when tried again, is one of traceroute, or everybody failed

	Dsts, Dports uint64 // distinct destinations and ports of the failing contacts
	Sources      uint64 // distinct sources, where there is more than one
	Estimated    bool   // Dsts, Dports or Sources are estimates

	Figures []Figure // what else this class counts
	Used    []string // where the outcomes came from: destroy, peek, query, invalid
	Samples []Contacted
	Items   []string // endpoints or clients by name, some of them
}

// Figure is a number of a class.
type Figure struct {
	Name  string // in snake_case with its unit
	Value float64
}

// Contacted is a contact as an example.
type Contacted struct {
	At      time.Time
	Orig    event.Tuple
	Outcome string // refused, unanswered, half_open, invalid, answered
}
