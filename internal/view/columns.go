package view

import (
	"slices"
	"strconv"

	"github.com/ctsight/ctsight/internal/event"
)

// column is one field of an event in both renderings. Each function appends
// the value, or nothing when the event does not have it.
type column struct {
	key    string // of the JSON object
	place  int    // in the line of text, 0 for none
	json   render
	text   render
	prefix string // "key":
}

type render func(w *EventWriter, b []byte, e *event.Event) []byte

// eventColumns describes an event. Names and conditions of the JSON fields are
// section 2 of the contract; the order here is theirs, place is that of text.
func eventColumns() []column {
	cols := []column{
		{key: "time", place: 1, json: jsonTime, text: textTime},
		{key: "event", place: 2, json: jsonKind, text: textKind},
		{key: "reason", place: 3, json: jsonReason, text: textWhy},
		{key: "cause", json: jsonCause},
		{key: "netns", place: 20, json: jsonNetNS, text: textNetNS},
		{key: "netns_name", json: jsonNetNSName},
		{key: "zone", place: 18, json: jsonZone, text: textZone},
		{key: "mark", place: 19, json: jsonMark, text: textMark},
		{key: "proto", place: 4, json: jsonProto, text: textProto},
		{key: "orig", place: 5, json: jsonOrig, text: textOrig},
		{key: "reply", place: 6, json: jsonReply, text: textReply},
		{key: "nat", json: jsonNAT},
		{key: "status", place: 9, json: jsonStatus, text: textStatus},
		{key: "lifetime_ns", place: 10, json: jsonLifetime, text: textLifetime},
		{key: "timeout_ns", place: 11, json: jsonTimeout, text: textTimeout},
		{key: "tcp_state", place: 7, json: jsonState, text: textState},
		{key: "tcp_flags", place: 8, json: jsonFlags, text: textFlags},
		{key: "by", place: 12, json: jsonBy, text: textBy},
		{key: "task", place: 13, json: jsonTask, text: textTask},
		{key: "nat_pool", place: 14, json: jsonPool, text: textPool},
		{key: "iif", place: 16, json: jsonIIf, text: textIIf},
		{key: "oif", place: 17, json: jsonOIf, text: textOIf},
		{key: "hook", place: 15, json: jsonHook, text: textHook},
		{key: "kfree_reason", place: 21, json: jsonKfree, text: textKfree},
		{key: "location", place: 22, json: jsonLocation, text: textLocation},
		{key: "sample", place: 23, json: jsonSample, text: textSample},
		{key: "best_effort", place: 24, json: jsonBestEffort, text: textBestEffort},
	}
	for i := range cols {
		cols[i].prefix = `"` + cols[i].key + `":`
	}
	return cols
}

// textColumns are the columns that a line of text has, in its order.
func textColumns() []column {
	cols := slices.DeleteFunc(eventColumns(), func(c column) bool { return c.place == 0 })
	slices.SortFunc(cols, func(a, b column) int { return a.place - b.place })
	return cols
}

func appendUint[T ~uint8 | ~uint16 | ~uint32 | ~uint64](b []byte, n T) []byte {
	return strconv.AppendUint(b, uint64(n), 10)
}

// appendQuoted is for words of our own, which need no escapes.
func appendQuoted(b []byte, s string) []byte { return append(append(append(b, '"'), s...), '"') }

// pad fills up with spaces to width from start.
func pad(b []byte, start, width int) []byte {
	for len(b)-start < width {
		b = append(b, ' ')
	}
	return b
}

func hasReason(e *event.Event) bool {
	return e.Kind == event.Drop || e.Kind == event.Note || e.Kind == event.Invalid
}

// appendProto is event.ProtoName without the memory that a number takes.
func appendProto(b []byte, p uint8) []byte {
	switch p {
	case event.ProtoTCP, event.ProtoUDP, event.ProtoICMP, event.ProtoICMPv6, event.ProtoSCTP,
		event.ProtoDCCP, event.ProtoGRE, event.ProtoUDPLite:
		return append(b, event.ProtoName(p)...)
	}
	return appendUint(b, p)
}
