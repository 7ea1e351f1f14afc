package view

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// What other writers than those in here show in the same words. Nothing of what
// these return needs more than the escapes of the writer's own language.

// Name makes a name from outside safe to show, and cuts it.
func Name(s string) string { return safeName(s) }

// Text makes a sentence from outside safe to show.
func Text(s string) string { return safeText(s) }

// NetNSText is the name of a namespace, its number where it has none.
func (n *Names) NetNSText(ns event.NetNS) string { return n.TableText(&agg.TableState{NetNS: ns}) }

// TableText is the name of a table's namespace, its number where it has none.
func (n *Names) TableText(t *agg.TableState) string {
	if name := tableName(t, n); name != "" {
		return safeName(name)
	}
	return t.NetNS.String()
}

// PoolText says whose ports they are, and towards which destination.
func PoolText(k *agg.Key) string {
	dst := *k
	dst.Dst = k.Dst.WithZone("")
	return AddrText(k.Src) + " > " + endpointText(&dst)
}

// AddrText is an address without its zone, ? where it is not known.
func AddrText(a netip.Addr) string { return addrText(a.WithZone("")) }

// ForecastText is the time to full with its bounds, never, or unknown.
func ForecastText(known bool, full, from, to *float64) string {
	return forecastText(known, full, from, to)
}

// Span writes a time that people wait for: 870ms, 12.3s, 4m10s, 3h05m, 2d04h.
func Span(d time.Duration) string { return span(d) }

// Quoted is a string from outside as JSON: more is escaped than JSON asks for, all that
// is not safe to show.
func Quoted(s string) json.RawMessage { return appendJSONString(nil, s) }

// AppendName appends what Name returns.
func AppendName(b []byte, s string) []byte { return appendName(b, s) }

// AppendQuoted appends a sentence from outside in double quotes, with escapes as in Go.
func AppendQuoted(b []byte, s string) []byte {
	return append(appendEscaped(append(b, '"'), s, `"`), '"')
}
