package event

import "strconv"

// Kind says what happened.
type Kind uint8

// The kinds of events. Numbers cross the border to BPF (bpf/wire.h).
const (
	New     Kind = 1 // an entry went into the table
	Destroy Kind = 2 // an entry left it
	Drop    Kind = 3 // a packet was lost
	Note    Kind = 4 // worth telling, and no loss
	Invalid Kind = 5 // a packet conntrack would not track
)

var kindNames = [...]string{"", "new", "destroy", "drop", "note", "invalid"}

// String returns the word of the contract, or the number.
func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return strconv.Itoa(int(k))
}

// ParseKind is the inverse of String for known kinds.
func ParseKind(s string) (Kind, bool) { return parse[Kind](kindNames[:], s) }

// Reason says why a packet was dropped (kind Drop) or what is worth noting
// (kind Note). The closed list is section 5.4 of the hook map; numbers cross
// the border to BPF (bpf/wire.h) and never change meaning.
type Reason uint8

// Reasons of drops, then of notes and of invalid packets.
const (
	ReasonNone        Reason = 0
	TableFull         Reason = 1
	CTNoMem           Reason = 2
	TCPReopenRace     Reason = 3
	ClashSameFlow     Reason = 4
	ClashReverse      Reason = 5
	NATExhausted      Reason = 6
	NATRace           Reason = 7
	ClashOther        Reason = 8
	ChainTooLong      Reason = 9
	CTDying           Reason = 10
	DoubleConfirm     Reason = 11
	ExtStale          Reason = 12
	SeqAdj            Reason = 13
	HelperDrop        Reason = 14
	ExpectLimit       Reason = 15
	NATSetup          Reason = 16
	MasqNoAddr        Reason = 17
	NATOifChanged     Reason = 18
	RulesetNew        Reason = 19
	RulesetInvalid    Reason = 20
	ConnlimitError    Reason = 21
	SynproxyCookie    Reason = 22
	NFQueueClone      Reason = 23
	OtherNew          Reason = 24
	ConfirmUnknown    Reason = 25
	LookupUnknown     Reason = 26
	ClashMerged       Reason = 32
	ClashNATReplyOnly Reason = 33
	SynproxyConsumed  Reason = 34
	CreateRefused     Reason = 35
	InvalidPacket     Reason = 40
	ICMPErrorPacket   Reason = 41

	// NumReasons bounds the reason numbers; counters have this many places.
	NumReasons = 48
)

// ReasonInfo is what `ctsight help reasons` says of a reason.
type ReasonInfo struct {
	Reason  Reason
	Name    string
	Counter string // kernel counters it belongs to, "" for none
	Kernel  string // what the kernel did
	Do      string // what an operator does about it
}

// Reasons lists every known reason in the order of its number.
var Reasons = []ReasonInfo{
	{TableFull, "table_full", "drop", "the table was at nf_conntrack_max and early drop found nothing to evict in 8 buckets", "find who fills it (ctsight drops), shorten timeouts or raise nf_conntrack_max and its buckets"},
	{CTNoMem, "ct_nomem", "drop", "no memory for the entry (slab or an extension)", "look at free memory and slabinfo nf_conntrack"},
	{TCPReopenRace, "tcp_reopen_race", "drop, invalid", "a SYN wanted to reopen an entry that was already dying", "nothing: the retransmission passes"},
	{ClashSameFlow, "clash_same_flow", "drop, insert_failed", "two packets of one flow raced on two CPUs and the protocol cannot merge", "usually a retransmission heals it; for DNS use one socket per query or single-request"},
	{ClashReverse, "clash_reverse", "drop, insert_failed", "both directions of one flow raced", "usually a retransmission heals it"},
	{NATExhausted, "nat_exhausted", "drop, insert_failed", "all source ports of the NAT pool to this destination were taken", "add addresses or ports to the pool, or shorten timeouts"},
	{NATRace, "nat_race", "drop, insert_failed", "two CPUs chose the same NAT tuple at the same time", "use random-fully on the NAT rule"},
	{ClashOther, "clash_other", "drop, insert_failed", "the tuple equals a translated tuple of another entry", "check for overlapping NAT rules"},
	{ChainTooLong, "chain_too_long", "chaintoolong, insert_failed", "the hash bucket held too many entries", "raise nf_conntrack_buckets; many equal tuples in zones or an attack on the hash otherwise"},
	{CTDying, "ct_dying", "insert_failed", "the entry was marked dying before it was inserted", "nothing: happens when a module is unloaded"},
	{DoubleConfirm, "double_confirm", "", "a clone of the packet had already inserted the entry (bridge flood, multicast)", "do not flood unconfirmed packets through conntrack: track after the bridge decision"},
	{ExtStale, "ext_stale", "insert_failed or drop", "a helper, timeout or NAT module was unloaded while the packet was on its way", "nothing: once per module unload"},
	{SeqAdj, "seqadj", "drop", "the TCP sequence numbers could not be adjusted after a helper changed the payload", "check the helper in use (FTP, SIP)"},
	{HelperDrop, "helper", "", "a conntrack helper refused the packet", "look at nf_log for the helper's text; is the helper needed?"},
	{ExpectLimit, "expect_limit", "", "a helper could not register its expectation", "raise nf_conntrack_expect_max"},
	{NATSetup, "nat_setup", "", "NAT could not be set up for the entry (no memory for its extension)", "look at free memory"},
	{MasqNoAddr, "masq_no_addr", "", "masquerade found no address on the outgoing interface", "give the interface an address"},
	{NATOifChanged, "nat_oif_changed", "", "a masqueraded flow now leaves by another interface, its entry was killed", "routing changed: the next packet makes a new entry"},
	{RulesetNew, "ruleset_new", "", "the operator's own rules dropped the first packet of a flow", "intended, or fix the rule"},
	{RulesetInvalid, "ruleset_invalid", "", "the operator's own rules dropped a packet that conntrack called invalid", "intended, or look for asymmetric routes"},
	{ConnlimitError, "connlimit_error", "", "connlimit could not count and dropped the packet", "look at free memory"},
	{SynproxyCookie, "synproxy_cookie", "", "an ACK carried a wrong SYN cookie", "intended: a spoofed or late ACK"},
	{NFQueueClone, "nfqueue_clone", "", "nfqueue refused a clone of a packet whose entry is not yet inserted", "do not queue flooded or multicast first packets"},
	{OtherNew, "other_new", "", "the first packet of a flow was lost after its lookup: routing, TTL, device, queue", "look at the location in the event"},
	{ConfirmUnknown, "confirm_unknown", "drop or insert_failed", "the insert failed and this backend cannot say why", "use a backend that sees functions (ctsight doctor)"},
	{LookupUnknown, "lookup_unknown", "drop", "conntrack dropped the packet at lookup and this backend cannot say why", "compare the table fill; use a backend that sees functions (ctsight doctor)"},
	{ClashMerged, "clash_merged", "clash_resolve", "two packets of one flow raced and were merged into one entry", "nothing was lost"},
	{ClashNATReplyOnly, "clash_nat_reply_only", "clash_resolve", "a raced packet kept its own NAT as an entry for replies only, for one second", "nothing was lost"},
	{SynproxyConsumed, "synproxy_consumed", "", "synproxy answered the SYN itself", "nothing was lost"},
	{CreateRefused, "create_refused", "", "user space or BPF asked for a new entry and the table was full", "the caller got ENOMEM"},
	{InvalidPacket, "invalid", "invalid", "the packet fits no entry and may not open one", "accepted unless a rule drops ct state invalid"},
	{ICMPErrorPacket, "icmp_error", "error", "an ICMP error that refers to no known flow", "accepted unless a rule drops ct state invalid"},
}

// String returns the lower-case name of the contract, or the number.
func (r Reason) String() string {
	if i := r.Info(); i != nil {
		return i.Name
	}
	return strconv.Itoa(int(r))
}

// Info returns what is known of the reason, nil when it is unknown.
func (r Reason) Info() *ReasonInfo {
	for i := range Reasons {
		if Reasons[i].Reason == r {
			return &Reasons[i]
		}
	}
	return nil
}

// Kind returns the kind of event that carries the reason: the numbers below 32
// are losses, those below 40 are not, the rest is about invalid packets.
func (r Reason) Kind() Kind {
	switch {
	case r == ReasonNone:
		return 0
	case r < ClashMerged:
		return Drop
	case r < InvalidPacket:
		return Note
	}
	return Invalid
}

// IsRuleset says whether the drop was the operator's own rule.
func (r Reason) IsRuleset() bool { return r == RulesetNew || r == RulesetInvalid }

// ParseReason is the inverse of String; it also takes numbers.
func ParseReason(s string) (Reason, bool) {
	for i := range Reasons {
		if Reasons[i].Name == s {
			return Reasons[i].Reason, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return Reason(n), err == nil
}

// Cause says why an entry left the table (section 2.5 of the hook map).
// Numbers cross the border to BPF (bpf/wire.h).
type Cause uint8

// Causes of destroys.
const (
	CauseUnknown    Cause = 0
	TimeoutGC       Cause = 1
	TimeoutLookup   Cause = 2
	TimeoutDump     Cause = 3
	EarlyDrop       Cause = 4
	EarlyDropGC     Cause = 5
	TCPReopen       Cause = 6
	TCPRstUnreplied Cause = 7
	CauseOifChanged Cause = 8
	DCCPReset       Cause = 9
	NATPortReuse    Cause = 10
	UserDelete      Cause = 11
	UserFlush       Cause = 12
	NetNSExit       Cause = 13
	MasqDevDown     Cause = 14
	MasqAddrDel     Cause = 15
	NATUnload       Cause = 16
	ForceCommit     Cause = 17
	IPVS            Cause = 18
	PPTP            Cause = 19
	FlowTable       Cause = 20
	CauseExtStale   Cause = 21
	Timeout         Cause = 22 // a backend that cannot tell which timeout

	// NumCauses bounds the cause numbers; counters have this many places.
	NumCauses = 24
)

// CauseInfo is what `ctsight help reasons` says of a cause.
type CauseInfo struct {
	Cause   Cause
	Name    string
	Counter string
	Kernel  string
}

// Causes lists every cause in the order of its number.
var Causes = []CauseInfo{
	{CauseUnknown, "unknown", "", "the hooks of this backend do not tell"},
	{TimeoutGC, "timeout_gc", "", "expired, found by the garbage collector (gc_worker)"},
	{TimeoutLookup, "timeout_lookup", "", "expired, found by a packet's lookup, by a port search of NAT or by early drop"},
	{TimeoutDump, "timeout_dump", "", "expired, found while somebody listed the table"},
	{EarlyDrop, "early_drop", "early_drop", "evicted to make room for a new entry in a full table"},
	{EarlyDropGC, "early_drop_gc", "", "evicted by the garbage collector, table over 95 % full"},
	{TCPReopen, "tcp_reopen", "", "a SYN reopened a closed TCP flow"},
	{TCPRstUnreplied, "tcp_rst_unreplied", "", "a RST on a flow that had seen no reply"},
	{CauseOifChanged, "nat_oif_changed", "", "a masqueraded flow left by another interface"},
	{DCCPReset, "dccp_reset", "", "a DCCP reset on a flow that had seen no reply"},
	{NATPortReuse, "nat_port_reuse", "", "NAT took the port of a closed TCP flow"},
	{UserDelete, "user_delete", "", "deleted by a process (conntrack -D)"},
	{UserFlush, "user_flush", "", "flushed by a process (conntrack -F)"},
	{NetNSExit, "netns_exit", "", "its network namespace went away"},
	{MasqDevDown, "masq_dev_down", "", "masqueraded over an interface that went down"},
	{MasqAddrDel, "masq_addr_del", "", "masqueraded with an address that was removed"},
	{NATUnload, "nat_unload", "", "a NAT module was unloaded"},
	{ForceCommit, "force_commit", "", "Open vSwitch or TC replaced it (forced commit)"},
	{IPVS, "ipvs", "", "IPVS dropped the connection"},
	{PPTP, "pptp", "", "its PPTP control connection ended"},
	{FlowTable, "flowtable", "", "the flow table gave it up"},
	{CauseExtStale, "ext_stale", "drop", "killed right after its insert, an extension module had gone"},
	{Timeout, "timeout", "", "expired, this backend cannot tell who found it"},
}

// String returns the lower-case name of the contract, or the number.
func (c Cause) String() string {
	if int(c) < len(Causes) {
		return Causes[c].Name
	}
	return strconv.Itoa(int(c))
}

// ParseCause is the inverse of String; it also takes numbers.
func ParseCause(s string) (Cause, bool) {
	for i := range Causes {
		if Causes[i].Name == s {
			return Causes[i].Cause, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return Cause(n), err == nil
}

func parse[T ~uint8](names []string, s string) (T, bool) {
	for i, n := range names {
		if n == s && n != "" {
			return T(i), true
		}
	}
	return 0, false
}
