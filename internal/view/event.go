package view

import (
	"io"
	"strings"

	"github.com/ctsight/ctsight/internal/event"
)

// EventOptions say how events are shown.
type EventOptions struct {
	JSON  bool
	Color bool        // text only
	Date  bool        // text only: the date before the time, for records of other days
	Clock event.Clock // kernel time to wall time
	// Own is the network namespace that a line of text need not name.
	Own   event.NetNS
	Names Names
}

// EventWriter writes one line per event, as text or as a JSON object. Each
// line is one Write; buffering is up to the caller. It does not allocate once
// its buffer has grown to the longest line, and it is not for concurrent use.
type EventWriter struct {
	w       io.Writer
	o       EventOptions
	columns []column // in the order of this rendering
	buf     []byte

	// The second of the last event and its text, up to the dot.
	second     int64
	secondText []byte

	reasons [256]string
	causes  [256]string
	flags   [32]string // status in conntrack(8)'s manner, "" for what a line does not show
}

// NewEventWriter returns a writer of events to w.
func NewEventWriter(w io.Writer, o EventOptions) *EventWriter {
	ew := &EventWriter{w: w, o: o, buf: make([]byte, 0, 1024)}
	for n := range 256 {
		ew.reasons[n], ew.causes[n] = event.Reason(n).String(), event.Cause(n).String()
	}
	// Seen reply is told by its absence, NAT by the reply tuple; every entry
	// is confirmed, every destroyed one is dying.
	hidden := event.SeenReply | event.Confirmed | event.Dying |
		event.SrcNAT | event.DstNAT | event.SrcNATDone | event.DstNATDone
	for i := range ew.flags {
		if bit := event.Status(1 << i); bit&hidden == 0 {
			ew.flags[i] = " [" + strings.ToUpper(bit.Names()[0]) + "]"
		}
	}
	ew.columns = textColumns()
	if o.JSON {
		ew.columns = eventColumns()
	}
	return ew
}

// Write writes the line of one event.
func (w *EventWriter) Write(e *event.Event) error {
	w.buf = w.append(w.buf[:0], e)
	_, err := w.w.Write(w.buf)
	return err
}

// append renders e. A column that appends nothing is absent, with its key.
func (w *EventWriter) append(b []byte, e *event.Event) []byte {
	if w.o.JSON {
		b = append(b, '{')
	}
	start := len(b)
	for i := range w.columns {
		c := &w.columns[i]
		before := len(b)
		if w.o.JSON {
			if before > start {
				b = append(b, ',')
			}
			b = append(b, c.prefix...)
			value := len(b)
			if b = c.json(w, b, e); len(b) == value {
				b = b[:before]
			}
			continue
		}
		if before > start {
			b = append(b, ' ')
		}
		value := len(b)
		if b = c.text(w, b, e); len(b) == value {
			b = b[:before]
		}
	}
	if w.o.JSON {
		b = append(b, '}')
	}
	return append(b, '\n')
}

// appendClock writes the wall time of k with the given digits of its second.
func (w *EventWriter) appendClock(b []byte, k event.Ktime, date bool, digits int) []byte {
	wall := &w.o.Clock.Wall
	d := int64(k - w.o.Clock.Mono)
	sec, ns := wall.Unix()+d/1e9, int64(wall.Nanosecond())+d%1e9
	switch {
	case ns < 0:
		sec, ns = sec-1, ns+1e9
	case ns >= 1e9:
		sec, ns = sec+1, ns-1e9
	}
	if sec != w.second || len(w.secondText) == 0 {
		w.second = sec
		w.secondText = w.o.Clock.At(k).AppendFormat(w.secondText[:0], "2006-01-02T15:04:05")
	}
	text := w.secondText
	if !date {
		text = text[strings.IndexByte(string(text), 'T')+1:]
	}
	b = append(append(b, text...), '.')
	for unit := int64(1e8); digits > 0; digits-- {
		b = append(b, byte('0'+ns/unit%10))
		unit /= 10
	}
	return append(b, 'Z')
}
