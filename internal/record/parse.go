package record

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Columns of a line. What follows them is left to later versions.
const (
	colTime = iota
	colWhat
	colID
	colProto
	colSrc
	colSport
	colDst
	colDport
	colStatus
	colCause
	colLife
	colOrigPackets
	colReplyPackets
	columns
)

var columnNames = [columns]string{"t_ns", "ev", "id", "proto", "src", "sport", "dst", "dport", "status", "cause", "life_ns", "opkts", "rpkts"}

// parse reads a line into e.
func (r *Reader) parse(line []byte, e *event.Event) (What, error) {
	if err := r.split(line); err != nil {
		return 0, err
	}
	*e = event.Event{Status: event.Confirmed}
	if err := r.time(e); err != nil {
		return 0, err
	}
	id, err := r.number(colID, 1<<63-1)
	if err != nil {
		return 0, err
	}
	e.Ptr = pointer(id)
	if err := r.tuple(&e.Orig); err != nil {
		return 0, err
	}
	for _, c := range []int{colOrigPackets, colReplyPackets} {
		if _, err := r.number(c, 1<<63-1); err != nil {
			return 0, err
		}
	}
	w := r.fields[colWhat]
	if len(w) != 1 {
		return 0, r.bad(colWhat, "not one of N R A D")
	}
	switch What(w[0]) {
	case Inserted:
		e.Kind = event.New
	case Replied:
		e.Status |= event.SeenReply
	case Assured:
		e.Status |= event.SeenReply | event.Assured
	case Destroyed:
		e.Kind = event.Destroy
		return Destroyed, r.destroy(e)
	default:
		return 0, r.bad(colWhat, "not one of N R A D")
	}
	return What(w[0]), nil
}

// split finds the columns.
func (r *Reader) split(line []byte) error {
	for i := range r.fields {
		end := bytes.IndexByte(line, '\t')
		if end < 0 && i < columns-1 {
			return fmt.Errorf("%d columns where ctreplay v1 has %d", i+1, columns)
		}
		if end < 0 {
			r.fields[i] = line
			break
		}
		r.fields[i], line = line[:end], line[end+1:]
	}
	return nil
}

func (r *Reader) bad(c int, why string) error {
	return fmt.Errorf("%s %s: %s", columnNames[c], quote(r.fields[c]), why)
}

// quote shows at most the beginning of what is in a file.
func quote(b []byte) string {
	const most = 40
	if len(b) > most {
		return strconv.QuoteToASCII(string(b[:most])) + " ..."
	}
	return strconv.QuoteToASCII(string(b))
}

// number is a decimal number; 0 for what is not known ("-").
func (r *Reader) number(c int, limit uint64) (uint64, error) {
	b := r.fields[c]
	if len(b) == 1 && b[0] == '-' && c != colID {
		return 0, nil
	}
	n, ok := digits(b)
	switch {
	case !ok:
		return 0, r.bad(c, "not a number from 0 on")
	case n > limit:
		return 0, r.bad(c, fmt.Sprintf("more than %d", limit))
	}
	return n, nil
}

// digits are of a number below 1e19.
func digits(b []byte) (n uint64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, true
}

// time is no earlier than that of the line before.
func (r *Reader) time(e *event.Event) error {
	n, ok := digits(r.fields[colTime])
	if !ok || n > maxTime {
		return r.bad(colTime, "not a time from 1970 to 2200 in nanoseconds")
	}
	e.Time = event.Ktime(n)
	switch d := e.Time.Sub(r.last); {
	case r.any && d < 0:
		return r.bad(colTime, fmt.Sprintf("%v before the line before it, which has %d", -d, r.last))
	case r.any && d > maxJump:
		return r.bad(colTime, fmt.Sprintf("%.0f days after the line before it, which has %d: was the clock set?", d.Hours()/24, r.last))
	}
	r.last, r.any = e.Time, true
	return nil
}

func (r *Reader) tuple(t *event.Tuple) (err error) {
	proto := string(r.fields[colProto])
	var ok bool
	if t.Proto, ok = event.ParseProto(proto); !ok {
		return r.bad(colProto, "no protocol")
	}
	if t.Src, err = r.addr(colSrc); err != nil {
		return err
	}
	if t.Dst, err = r.addr(colDst); err != nil {
		return err
	}
	if t.Src.BitLen() != t.Dst.BitLen() {
		return fmt.Errorf("src %s and dst %s are of two families", t.Src, t.Dst)
	}
	sport, err := r.number(colSport, 65535)
	if err != nil {
		return err
	}
	dport, err := r.number(colDport, 65535)
	if err != nil {
		return err
	}
	t.Sport, t.Dport = uint16(sport), uint16(dport)
	if t.Proto == event.ProtoICMP && t.Src.Is6() {
		t.Proto = event.ProtoICMPv6
	}
	if t.IsICMP() {
		fromZeek(t)
	}
	return nil
}

// fromZeek puts type and code of ICMP where the kernel has them. The captures have
// them as Zeek writes them: the type for a source port, and for a destination port
// the code, or the type of the answer where there is one; the id is not in them.
// What is no type stays as it is: id, and type and code in one.
func fromZeek(t *event.Tuple) {
	if t.Sport > 255 || t.Dport > 255 {
		return
	}
	code := t.Dport
	if code == answer(t.Proto, uint8(t.Sport)) {
		code = 0
	}
	t.Sport, t.Dport = 0, t.Sport<<8|code
}

// answer is the type that answers an ICMP type, 0 where there is none.
func answer(proto uint8, typ uint8) uint16 {
	pairs := [][2]uint8{{8, 0}, {9, 10}, {13, 14}, {15, 16}, {17, 18}}
	if proto == event.ProtoICMPv6 {
		pairs = [][2]uint8{{128, 129}, {130, 131}, {133, 134}, {135, 136}, {139, 140}, {144, 145}}
	}
	for _, p := range pairs {
		switch typ {
		case p[0]:
			return uint16(p[1])
		case p[1]:
			return uint16(p[0])
		}
	}
	return 0
}

// addrsMost is how many addresses are remembered as they were written.
const addrsMost = 1 << 12

func (r *Reader) addr(c int) (netip.Addr, error) {
	b := r.fields[c]
	if a, ok := r.addrs[string(b)]; ok {
		return a, nil
	}
	if len(b) > maxAddr || bytes.IndexByte(b, '%') >= 0 {
		return netip.Addr{}, r.bad(c, "no address")
	}
	a, err := netip.ParseAddr(string(b))
	if err != nil {
		return a, r.bad(c, "no address")
	}
	if len(r.addrs) >= addrsMost {
		clear(r.addrs)
	}
	r.addrs[string(b)] = a
	return a, nil
}

// maxAddr is INET6_ADDRSTRLEN less one.
const maxAddr = 45

// destroy reads the columns that only the end of an entry has.
func (r *Reader) destroy(e *event.Event) error {
	switch string(r.fields[colStatus]) {
	case "U":
	case "R":
		e.Status |= event.SeenReply
	case "A":
		e.Status |= event.SeenReply | event.Assured
	default:
		return r.bad(colStatus, "not one of U R A, which a D has")
	}
	if err := r.life(e); err != nil {
		return err
	}
	return r.cause(e)
}

// life reads the lifetime; -1 and - are for one that is not known.
func (r *Reader) life(e *event.Event) error {
	if s := string(r.fields[colLife]); s == "-1" || s == "-" {
		return nil
	}
	n, ok := digits(r.fields[colLife])
	if !ok || n > uint64(maxLife) {
		return r.bad(colLife, "not a lifetime in nanoseconds")
	}
	e.Lifetime, e.HasLifetime = time.Duration(n), true
	return nil
}

// cause reads why the entry went. A D of ctreplay says no more than rst or timeout;
// who writes one of our own events says more.
func (r *Reader) cause(e *event.Event) error {
	switch s := string(r.fields[colCause]); s {
	case "timeout":
		e.Cause = event.TimeoutGC // which of the three does not matter to anybody
	case "rst":
		e.Cause = event.TCPRstUnreplied
	case "-":
		e.Cause = event.CauseUnknown
	default:
		c, ok := event.ParseCause(s)
		if !ok || c >= event.NumCauses {
			return r.bad(colCause, "neither rst nor timeout nor a cause of `ctsight help reasons`")
		}
		e.Cause = c
	}
	e.TCPState = stateAtEnd(e)
	return nil
}

// stateAtEnd is the state of a TCP entry that timed out before it was assured, as
// far as its lifetime tells: SYN_RECV lasts 60 s, and what was answered and went
// before was taken back by the client (CLOSE, 10 s).
func stateAtEnd(e *event.Event) event.TCPState {
	const synRecv = 60 * time.Second
	switch {
	case e.Orig.Proto != event.ProtoTCP, e.Cause != event.TimeoutGC, e.Status&event.Assured != 0:
		return event.TCPNone
	case e.Status&event.SeenReply == 0:
		return event.TCPSynSent
	case e.HasLifetime && e.Lifetime < synRecv:
		return event.TCPClose
	}
	return event.TCPSynRecv
}
