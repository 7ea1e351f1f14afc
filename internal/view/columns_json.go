package view

import (
	"strconv"

	"github.com/ctsight/ctsight/internal/event"
)

func jsonTime(w *EventWriter, b []byte, e *event.Event) []byte {
	return append(w.appendClock(append(b, '"'), e.Time, true, 9), '"')
}

func jsonKind(_ *EventWriter, b []byte, e *event.Event) []byte {
	return appendQuoted(b, e.Kind.String())
}

func jsonReason(w *EventWriter, b []byte, e *event.Event) []byte {
	if !hasReason(e) {
		return b
	}
	return appendQuoted(b, w.reasons[e.Reason])
}

func jsonCause(w *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy {
		return b
	}
	return appendQuoted(b, w.causes[e.Cause])
}

func jsonNetNS(_ *EventWriter, b []byte, e *event.Event) []byte { return appendUint(b, e.NetNS) }

func jsonNetNSName(w *EventWriter, b []byte, e *event.Event) []byte {
	if name := w.o.Names.netns(e.NetNS); name != "" {
		return appendJSONString(b, name)
	}
	return b
}

func jsonZone(_ *EventWriter, b []byte, e *event.Event) []byte { return jsonNumber(b, e.Zone) }
func jsonMark(_ *EventWriter, b []byte, e *event.Event) []byte { return jsonNumber(b, e.Mark) }

// jsonNumber is absent when it is 0.
func jsonNumber[T ~uint8 | ~uint16 | ~uint32 | ~uint64](b []byte, n T) []byte {
	if n == 0 {
		return b
	}
	return appendUint(b, n)
}

func jsonProto(_ *EventWriter, b []byte, e *event.Event) []byte {
	return append(appendProto(append(b, '"'), e.Orig.Proto), '"')
}

func jsonOrig(_ *EventWriter, b []byte, e *event.Event) []byte {
	return append(appendFields(append(b, '{'), &e.Orig), '}')
}

func jsonReply(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Reply.IsZero() {
		return b
	}
	return append(appendFields(append(b, '{'), &e.Reply), '}')
}

// appendFields writes the fields of a tuple. One that is not known has none.
func appendFields(b []byte, t *event.Tuple) []byte {
	if t.IsZero() {
		return b
	}
	if t.Src.IsValid() {
		b = append(t.Src.AppendTo(append(b, `"src":"`...)), `",`...)
	}
	if !t.IsICMP() {
		b = append(appendUint(append(b, `"sport":`...), t.Sport), ',')
	}
	if t.Dst.IsValid() {
		b = append(t.Dst.AppendTo(append(b, `"dst":"`...)), `",`...)
	}
	if !t.IsICMP() {
		return appendUint(append(b, `"dport":`...), t.Dport)
	}
	typ, code, id := t.ICMP()
	b = appendUint(append(b, `"type":`...), typ)
	b = appendUint(append(b, `,"code":`...), code)
	return appendUint(append(b, `,"id":`...), id)
}

func jsonNAT(_ *EventWriter, b []byte, e *event.Event) []byte {
	if nat := e.NAT(); nat != "" {
		return appendQuoted(b, nat)
	}
	return b
}

// jsonStatus is there for entries even if no bit is set, so that a script can
// look for a word in it.
func jsonStatus(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.New && e.Kind != event.Destroy {
		return b
	}
	b = append(b, '[')
	first := true
	for i := range 32 {
		if e.Status>>i&1 == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		if name := event.StatusName(i); name != "" {
			b = appendQuoted(b, name)
		} else {
			b = append(appendUint(append(b, `"bit`...), uint8(i)), '"')
		}
	}
	return append(b, ']')
}

func jsonLifetime(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || !e.HasLifetime {
		return b
	}
	return strconv.AppendInt(b, int64(e.Lifetime), 10)
}

func jsonTimeout(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || e.Timeout == 0 {
		return b
	}
	return strconv.AppendInt(b, int64(e.Timeout), 10)
}

func jsonState(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || e.TCPState == event.TCPNone || e.Orig.Proto != event.ProtoTCP {
		return b
	}
	return appendQuoted(b, e.TCPState.String())
}

// jsonFlags is an empty list for a segment without flags.
func jsonFlags(_ *EventWriter, b []byte, e *event.Event) []byte {
	if !e.HasTCPFlags {
		return b
	}
	b = append(b, '[')
	for i, first := 0, true; i < 8; i++ {
		if e.TCPFlags>>i&1 == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		b, first = appendQuoted(b, event.TCPFlagName(i)), false
	}
	return append(b, ']')
}

func jsonBy(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy || e.By.IsZero() {
		return b
	}
	b = appendProto(append(b, `{"proto":"`...), e.By.Proto)
	return append(appendFields(append(b, `",`...), &e.By), '}')
}

func hasTask(e *event.Event) bool { return e.Task.PID != 0 || e.Task.Comm != "" }

func jsonTask(w *EventWriter, b []byte, e *event.Event) []byte {
	if !hasTask(e) {
		return b
	}
	b = appendUint(append(b, `{"pid":`...), e.Task.PID)
	if e.Task.Comm != "" {
		b = appendJSONString(append(b, `,"comm":`...), e.Task.Comm)
	}
	if e.Task.Cgroup != 0 {
		b = append(b, `,"cgroup":`...)
		if path := w.o.Names.cgroup(e.Task.Cgroup); path != "" {
			b = appendJSONString(b, path)
		} else { // a string too: the id may be more than a float holds
			b = append(appendUint(append(b, '"'), e.Task.Cgroup), '"')
		}
	}
	return append(b, '}')
}

func jsonPool(_ *EventWriter, b []byte, e *event.Event) []byte {
	p := e.NATPool()
	if !p.Addr.IsValid() {
		return b
	}
	b = append(p.Addr.AppendTo(append(b, `{"addr":"`...)), '"')
	if p.Dst.IsValid() {
		b = append(p.Dst.AppendTo(append(b, `,"dst":"`...)), '"')
		b = appendUint(append(b, `,"dport":`...), p.DstPort)
	}
	b = appendProto(append(b, `,"proto":"`...), p.Proto)
	return append(b, `"}`...)
}

func jsonIIf(w *EventWriter, b []byte, e *event.Event) []byte { return w.jsonInterface(b, e, e.IIf) }
func jsonOIf(w *EventWriter, b []byte, e *event.Event) []byte { return w.jsonInterface(b, e, e.OIf) }

// jsonInterface is a string always; without a name it is the index.
func (w *EventWriter) jsonInterface(b []byte, e *event.Event, index uint32) []byte {
	if index == 0 {
		return b
	}
	if f := w.o.Names.Interface; f != nil {
		if name := f(e.NetNS, index); name != "" {
			return appendJSONString(b, name)
		}
	}
	return append(appendUint(append(b, '"'), index), '"')
}

func jsonHook(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Hook == 0 {
		return b
	}
	return appendQuoted(b, e.Hook.String())
}

func jsonKfree(w *EventWriter, b []byte, e *event.Event) []byte {
	if e.KfreeReason == 0 {
		return b
	}
	if f := w.o.Names.KfreeReason; f != nil {
		if name := f(e.KfreeReason); name != "" {
			return appendJSONString(b, name)
		}
	}
	return append(appendUint(append(b, '"'), e.KfreeReason), '"')
}

// jsonLocation has no bare address: it would tell where the kernel's text is.
func jsonLocation(w *EventWriter, b []byte, e *event.Event) []byte {
	if s := w.o.Names.symbol(e.Location); s != "" {
		return appendJSONString(b, s)
	}
	return b
}

func jsonSample(_ *EventWriter, b []byte, e *event.Event) []byte {
	if e.Sample <= 1 {
		return b
	}
	return appendUint(b, e.Sample)
}

func jsonBestEffort(_ *EventWriter, b []byte, e *event.Event) []byte {
	if !e.BestEffort {
		return b
	}
	return append(b, "true"...)
}
