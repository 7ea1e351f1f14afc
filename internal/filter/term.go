package filter

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/ctsight/ctsight/internal/event"
)

// span is a range of numbers, both ends included. Of a mark it is value and mask.
type span struct{ lo, hi uint32 }

// term is one test of one field: the event passes if one of the values fits.
type term struct {
	field field
	spans []span         // numbers of every sort
	nets  []netip.Prefix // addresses
	texts []string       // names of processes
}

func (t *term) equal(u *term) bool {
	return t.field == u.field && slices.Equal(t.spans, u.spans) && slices.Equal(t.nets, u.nets) && slices.Equal(t.texts, u.texts)
}

func (t *term) has(n uint32) bool {
	for _, s := range t.spans {
		if s.lo <= n && n <= s.hi {
			return true
		}
	}
	return false
}

func (t *term) hasAddr(a netip.Addr) bool {
	for _, p := range t.nets {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// hasPort is false for ICMP, whose tuple has no ports.
func (t *term) hasPort(u *event.Tuple, port uint16) bool { return !u.IsICMP() && t.has(uint32(port)) }

func (t *term) match(e *event.Event) bool {
	o, r := &e.Orig, &e.Reply
	switch t.field {
	case fieldEvent:
		return t.has(uint32(e.Kind))
	case fieldReason:
		return hasReason(e.Kind) && t.has(uint32(e.Reason))
	case fieldCause:
		return e.Kind == event.Destroy && t.has(uint32(e.Cause))
	case fieldSrc:
		return t.hasAddr(o.Src)
	case fieldDst:
		return t.hasAddr(o.Dst)
	case fieldHost:
		return t.hasAddr(o.Src) || t.hasAddr(o.Dst)
	case fieldReplySrc:
		return t.hasAddr(r.Src)
	case fieldReplyDst:
		return t.hasAddr(r.Dst)
	case fieldSport:
		return t.hasPort(o, o.Sport)
	case fieldDport:
		return t.hasPort(o, o.Dport)
	case fieldPort:
		return t.hasPort(o, o.Sport) || t.hasPort(o, o.Dport)
	case fieldReplySport:
		return !r.IsZero() && t.hasPort(r, r.Sport)
	case fieldReplyDport:
		return !r.IsZero() && t.hasPort(r, r.Dport)
	}
	return t.matchRest(e)
}

// matchRest has the fields that are asked for less often.
func (t *term) matchRest(e *event.Event) bool {
	switch t.field {
	case fieldProto:
		return t.has(uint32(e.Orig.Proto))
	case fieldFamily:
		return e.Orig.Src.IsValid() && t.has(uint32(family(e.Orig.Src)))
	case fieldICMPType, fieldICMPCode, fieldICMPID:
		return t.matchICMP(&e.Orig)
	case fieldNetNS:
		return t.has(uint32(e.NetNS))
	case fieldZone:
		return t.has(uint32(e.Zone))
	case fieldMark:
		return slices.ContainsFunc(t.spans, func(s span) bool { return e.Mark&s.hi == s.lo&s.hi })
	case fieldHook:
		return t.has(uint32(e.Hook))
	case fieldStatus:
		return slices.ContainsFunc(t.spans, func(s span) bool { return uint32(e.Status)&s.lo != 0 })
	case fieldState:
		return e.TCPState != event.TCPNone && t.has(uint32(e.TCPState))
	case fieldNAT:
		return t.has(natNumber(e.NAT()))
	case fieldPID:
		return t.has(e.Task.PID)
	case fieldComm:
		return slices.Contains(t.texts, e.Task.Comm)
	}
	return false
}

func (t *term) matchICMP(o *event.Tuple) bool {
	if !o.IsICMP() {
		return false
	}
	typ, code, id := o.ICMP()
	switch t.field {
	case fieldICMPType:
		return t.has(uint32(typ))
	case fieldICMPCode:
		return t.has(uint32(code))
	}
	return t.has(uint32(id))
}

// hasReason says whether events of this kind carry a reason.
func hasReason(k event.Kind) bool {
	return k == event.Drop || k == event.Note || k == event.Invalid
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return 4
	}
	return 6
}

var natNames = []string{"none", "snat", "dnat", "both"}

func natNumber(s string) uint32 {
	for i, n := range natNames {
		if n == s {
			return uint32(i)
		}
	}
	return 0
}

// append writes the canonical form: the field's word and its values. One kind
// of event stands alone, as in `drop`.
func (t *term) append(b []byte) []byte {
	if t.field == fieldEvent && len(t.spans) == 1 {
		return t.appendNumber(b, t.spans[0])
	}
	b = append(append(b, fields[t.field].name...), ' ')
	first := true
	comma := func() {
		if !first {
			b = append(b, ',')
		}
		first = false
	}
	for _, s := range t.spans {
		comma()
		b = t.appendNumber(b, s)
	}
	for _, p := range t.nets {
		comma()
		if p.IsSingleIP() {
			b = p.Addr().AppendTo(b)
		} else {
			b = p.AppendTo(b)
		}
	}
	for _, s := range t.texts {
		comma()
		b = strconv.AppendQuoteToASCII(b, s)
	}
	return b
}

func (t *term) appendNumber(b []byte, s span) []byte {
	if name := fields[t.field].numberName; name != nil {
		return append(b, name(s.lo)...)
	}
	if t.field == fieldMark {
		b = strconv.AppendUint(append(b, "0x"...), uint64(s.lo), 16)
		if s.hi != ^uint32(0) {
			b = strconv.AppendUint(append(b, "/0x"...), uint64(s.hi), 16)
		}
		return b
	}
	b = strconv.AppendUint(b, uint64(s.lo), 10)
	if s.hi != s.lo {
		b = strconv.AppendUint(append(b, '-'), uint64(s.hi), 10)
	}
	return b
}
