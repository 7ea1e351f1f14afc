package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Timer is the timeout that an entry waits for.
type Timer uint8

// Timers. NoTimer is that of entries whose timeouts are not modelled: they end when
// they ended.
const (
	NoTimer Timer = iota
	SynSent
	SynRecv
	Established
	FinWait
	CloseWait
	LastAck
	TimeWait
	Close
	UDP
	UDPStream
	ICMP
	ICMPv6
	GRE
	GREStream
	Generic
	numTimers
)

// Timeouts of an entry by its timer; 0 is not known.
type Timeouts [numTimers]time.Duration

// timers have the sysctl after nf_conntrack_, and the kernel's default in seconds
// (nf_conntrack_proto_*.c).
var timers = [numTimers]struct {
	sysctl string
	value  int
}{
	SynSent: {"tcp_timeout_syn_sent", 120}, SynRecv: {"tcp_timeout_syn_recv", 60}, Established: {"tcp_timeout_established", 432_000},
	FinWait: {"tcp_timeout_fin_wait", 120}, CloseWait: {"tcp_timeout_close_wait", 60}, LastAck: {"tcp_timeout_last_ack", 30},
	TimeWait: {"tcp_timeout_time_wait", 120}, Close: {"tcp_timeout_close", 10},
	UDP: {"udp_timeout", 30}, UDPStream: {"udp_timeout_stream", 120}, ICMP: {"icmp_timeout", 30}, ICMPv6: {"icmpv6_timeout", 30},
	GRE: {"gre_timeout", 30}, GREStream: {"gre_timeout_stream", 180}, Generic: {"generic_timeout", 600},
}

// String is the sysctl after nf_conntrack_.
func (t Timer) String() string { return timers[t].sysctl }

// Short is the name on the command line: udp, udp_stream, tcp_established.
func (t Timer) Short() string {
	return strings.TrimSuffix(strings.Replace(timers[t].sysctl, "_timeout", "", 1), "_")
}

// DefaultTimeouts are the kernel's own.
func DefaultTimeouts() (t Timeouts) {
	for i := range timers {
		t[i] = time.Duration(timers[i].value) * time.Second
	}
	return t
}

// TimeoutsOf takes the values of sysctls in seconds, by their names after
// nf_conntrack_; those that are not there are the kernel's own.
func TimeoutsOf(values map[string]int) Timeouts {
	t := DefaultTimeouts()
	for i := range timers {
		if v, ok := values[timers[i].sysctl]; ok && v >= 0 {
			t[i] = time.Duration(v) * time.Second
		}
	}
	return t
}

// maxTimeout is what a sysctl takes: 31 bits of jiffies at 1000 a second.
const maxTimeout = 1<<31/1000 - 1

// Change is what a timeout becomes.
type Change struct {
	Timer Timer
	To    time.Duration
}

// ParseChanges reads udp=10s,tcp_established=1h: names of the sysctls, with or
// without what all have, and whole seconds.
func ParseChanges(text string) (out []Change, err error) {
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, fmt.Errorf("%q: write udp=10s", part)
		}
		t, ok := parseTimer(name)
		if !ok {
			return nil, fmt.Errorf("%q is no timeout: %s", name, strings.Join(timerNames(), ", "))
		}
		if slices.ContainsFunc(out, func(c Change) bool { return c.Timer == t }) {
			return nil, fmt.Errorf("%s is given twice", t.Short())
		}
		d, err := parseTimeout(value)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", name, value, err)
		}
		out = append(out, Change{t, d})
	}
	return out, nil
}

// parseTimeout takes 10s, 1h, and 10 as sysctl(8) does.
func parseTimeout(value string) (time.Duration, error) {
	if value != "" && strings.Trim(value, "0123456789") == "" {
		value += "s"
	}
	d, err := time.ParseDuration(value)
	switch {
	case err != nil:
		return 0, fmt.Errorf("no time: write 10s, 5m or 1h")
	case d < time.Second || d%time.Second != 0 || d > maxTimeout*time.Second:
		return 0, fmt.Errorf("whole seconds from 1 to %d", maxTimeout)
	}
	return d, nil
}

func parseTimer(name string) (Timer, bool) {
	name = strings.TrimPrefix(name, "nf_conntrack_")
	for t := NoTimer + 1; t < numTimers; t++ {
		if name == t.String() || name == t.Short() {
			return t, true
		}
	}
	return NoTimer, false
}

func timerNames() (out []string) {
	for t := NoTimer + 1; t < numTimers; t++ {
		out = append(out, t.Short())
	}
	return out
}

// streamAfter is how old an answered UDP flow must be for the timeout of a stream
// (nf_conntrack_udp_packet, stream_ts).
const streamAfter = 2 * time.Second

// timerOf is what a connection waited for at its end, or waits for at that of the
// window. Which of two timeouts it was that a lifetime tells.
func (r *Record) timerOf(c *Conn) Timer {
	switch c.Proto {
	case event.ProtoTCP:
		return r.tcpTimer(c)
	case event.ProtoUDP, event.ProtoUDPLite:
		switch {
		case !c.Replied:
			return UDP
		case c.Before, r.age(c) >= streamAfter+r.Kernel.Timeouts[UDPStream]:
			return UDPStream
		case c.End != 0 && !timedOut(c.Cause), c.End == 0:
			return r.udpLeft(c)
		}
		return UDP
	case event.ProtoICMP:
		return ICMP
	case event.ProtoICMPv6:
		return ICMPv6
	case event.ProtoGRE:
		if c.Replied {
			return GREStream
		}
		return GRE
	case event.ProtoSCTP, event.ProtoDCCP:
		return NoTimer
	}
	return Generic
}

// udpLeft is for an answered flow that did not time out: it is a stream when it has
// more time left, or is older, than the other timeout can give.
func (r *Record) udpLeft(c *Conn) Timer {
	end := r.end(c)
	if c.Expires.Sub(end) > r.Kernel.Timeouts[UDP] || end.Sub(c.Start) > streamAfter+r.Kernel.Timeouts[UDP]+r.Kernel.longest() {
		return UDPStream
	}
	return UDP
}

// tcpTimer goes by the last state, and where a capture does not have it by what the
// lifetime leaves of the three that an assured connection can end with.
func (r *Record) tcpTimer(c *Conn) Timer {
	switch c.State {
	case event.TCPSynSent:
		return SynSent
	case event.TCPSynRecv:
		return SynRecv
	case event.TCPFinWait:
		return FinWait
	case event.TCPCloseWait:
		return CloseWait
	case event.TCPLastAck:
		return LastAck
	case event.TCPTimeWait:
		return TimeWait
	case event.TCPClose:
		return Close
	case event.TCPEstablished:
		return Established
	}
	t := &r.Kernel.Timeouts
	switch {
	case !c.Replied:
		return SynSent
	case c.End == 0 || !timedOut(c.Cause), r.age(c) >= t[Established]:
		return Established
	case r.age(c) >= t[TimeWait]:
		return TimeWait
	}
	return Close
}

func timedOut(c event.Cause) bool {
	switch c {
	case event.TimeoutGC, event.TimeoutLookup, event.TimeoutDump, event.Timeout:
		return true
	}
	return false
}

func evicted(c event.Cause) bool { return c == event.EarlyDrop || c == event.EarlyDropGC }

// closing says whether early drop by the collector may take an assured entry with
// this timer (tcp_can_early_drop).
func (t Timer) closing() bool { return t >= FinWait && t <= Close }

// end is of the entry, or of the window.
func (r *Record) end(c *Conn) event.Ktime {
	if c.End == 0 {
		return r.To
	}
	return c.End
}

func (r *Record) age(c *Conn) time.Duration { return r.end(c).Sub(c.Start) }
