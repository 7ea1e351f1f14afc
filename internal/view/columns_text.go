package view

import (
	"github.com/ctsight/ctsight/internal/event"
)

// Widths of the first columns, so that lines stand below one another: the
// longest kind, the longest usual reason or cause, the longest protocol.
const (
	kindWidth  = 7
	whyWidth   = 17
	protoWidth = 6
)

func textTime(w *EventWriter, b []byte, e *event.Event) []byte {
	return w.appendClock(b, e.Time, w.o.Date, 6)
}

func textKind(w *EventWriter, b []byte, e *event.Event) []byte {
	word, colour := "", bold
	switch e.Kind {
	case event.New:
		word, colour = "NEW", green
	case event.Destroy:
		word, colour = "DESTROY", yellow
	case event.Drop:
		word, colour = "DROP", bold+";"+red
	case event.Note:
		word, colour = "NOTE", cyan
	case event.Invalid:
		word, colour = "INVALID", magenta
	default:
		word = e.Kind.String()
	}
	b = appendColour(b, w.o.Color, colour, word)
	return pad(b, len(b)-len(word), kindWidth)
}

// textWhy is the reason or the cause, whichever the kind has.
func textWhy(w *EventWriter, b []byte, e *event.Event) []byte {
	word, colour := "-", ""
	switch {
	case hasReason(e):
		word, colour = w.reasons[e.Reason], bold
	case e.Kind == event.Destroy:
		word = w.causes[e.Cause]
		if e.Cause == event.EarlyDrop || e.Cause == event.EarlyDropGC {
			colour = bold
		}
	}
	b = appendColour(b, w.o.Color && colour != "", colour, word)
	return pad(b, len(b)-len(word), whyWidth)
}

func textProto(_ *EventWriter, b []byte, e *event.Event) []byte {
	start := len(b)
	return pad(appendProto(b, e.Orig.Proto), start, protoWidth)
}

func textOrig(_ *EventWriter, b []byte, e *event.Event) []byte { return appendTuple(b, &e.Orig) }

// textReply is shown only if it says something, that is with NAT.
func textReply(_ *EventWriter, b []byte, e *event.Event) []byte {
	nat := e.NAT()
	if nat == "" {
		return b
	}
	return appendTuple(append(append(b, nat...), " reply "...), &e.Reply)
}

func textState(w *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || e.TCPState == event.TCPNone || e.Orig.Proto != event.ProtoTCP {
		return b
	}
	return append(b, e.TCPState.String()...)
}

// textFlags is tcpdump(8)'s notation.
func textFlags(_ *EventWriter, b []byte, e *event.Event) []byte {
	switch {
	case !e.HasTCPFlags:
		return b
	case e.TCPFlags == 0:
		return append(b, "flags [none]"...)
	}
	return append(e.TCPFlags.AppendTo(append(b, "flags ["...)), ']')
}

// textStatus has conntrack(8)'s brackets: [UNREPLIED], [ASSURED] and whatever
// is unusual.
func textStatus(w *EventWriter, b []byte, e *event.Event) []byte {
	start := len(b)
	if e.Kind == event.Destroy && e.Status != 0 && e.Status&event.SeenReply == 0 {
		b = append(b, " [UNREPLIED]"...)
	}
	for i, flag := range w.flags {
		if e.Status>>i&1 != 0 {
			b = append(b, flag...)
		}
	}
	if len(b) > start { // each begins with the space that is there already
		b = append(b[:start], b[start+1:]...)
	}
	return b
}

func textLifetime(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || !e.HasLifetime {
		return b
	}
	return appendDuration(append(b, "lifetime "...), e.Lifetime)
}

// textTimeout tells what an entry lost that did not expire.
func textTimeout(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || e.Timeout <= 0 {
		return b
	}
	return appendDuration(append(b, "left "...), e.Timeout)
}

func textBy(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || e.By.IsZero() {
		return b
	}
	b = append(appendProto(append(b, "by "...), e.By.Proto), ' ')
	return appendTuple(b, &e.By)
}

func textTask(w *EventWriter, b []byte, e *event.Event) []byte {
	if !hasTask(e) {
		return b
	}
	b = appendUint(append(b, "task "...), e.Task.PID)
	if e.Task.Comm != "" {
		b = appendName(append(b, ' '), e.Task.Comm)
	}
	if path := w.o.Names.cgroup(e.Task.Cgroup); path != "" {
		b = appendName(append(b, " cgroup "...), path)
	}
	return b
}

func textPool(_ *EventWriter, b []byte, e *event.Event) []byte {
	p := e.NATPool()
	if !p.Addr.IsValid() {
		return b
	}
	b = append(appendProto(append(b, "pool "...), p.Proto), ' ')
	b = p.Addr.AppendTo(b)
	if !p.Dst.IsValid() {
		return b
	}
	t := event.Tuple{Dst: p.Dst, Dport: p.DstPort, Proto: p.Proto}
	return appendAddrPort(append(b, " to "...), &t, false)
}

func textHook(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Hook == 0 {
		return b
	}
	return append(append(b, "hook "...), e.Hook.String()...)
}

func textIIf(w *EventWriter, b []byte, e *event.Event) []byte {
	return w.textInterface(b, "iif ", e, e.IIf)
}

func textOIf(w *EventWriter, b []byte, e *event.Event) []byte {
	return w.textInterface(b, "oif ", e, e.OIf)
}

func (w *EventWriter) textInterface(b []byte, label string, e *event.Event, index uint32) []byte {
	if index == 0 {
		return b
	}
	b = append(b, label...)
	if f := w.o.Names.Interface; f != nil {
		if name := f(e.NetNS, index); name != "" {
			return appendName(b, name)
		}
	}
	return appendUint(b, index)
}

func textZone(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Zone == 0 {
		return b
	}
	return appendUint(append(b, "zone "...), e.Zone)
}

func textMark(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Mark == 0 {
		return b
	}
	b = append(b, "mark 0x"...)
	digits := 1
	for digits < 8 && e.Mark>>(4*digits) != 0 {
		digits++
	}
	return appendHex(b, e.Mark, digits)
}

func textNetNS(w *EventWriter, b []byte, e *event.Event) []byte {
	if e.NetNS == w.o.Own {
		return b
	}
	b = appendUint(append(b, "netns "...), e.NetNS)
	if name := w.o.Names.netns(e.NetNS); name != "" {
		b = append(appendName(append(b, " ("...), name), ')')
	}
	return b
}

func textKfree(w *EventWriter, b []byte, e *event.Event) []byte {
	if e.KfreeReason == 0 {
		return b
	}
	b = append(b, "kfree "...)
	if f := w.o.Names.KfreeReason; f != nil {
		if name := f(e.KfreeReason); name != "" {
			return appendName(b, name)
		}
	}
	return appendUint(b, e.KfreeReason)
}

func textLocation(w *EventWriter, b []byte, e *event.Event) []byte {
	if s := w.o.Names.symbol(e.Location); s != "" {
		return appendName(append(b, "at "...), s)
	}
	return b
}

func textSample(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Sample <= 1 {
		return b
	}
	return appendUint(append(b, "sample "...), e.Sample)
}

func textBestEffort(_ *EventWriter, b []byte, e *event.Event) []byte {
	if !e.BestEffort {
		return b
	}
	return append(b, "best_effort"...)
}
