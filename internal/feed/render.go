package feed

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

// plain is the line for fail2ban and for people, its fields always in this order:
//
//	TIME ctsight block|tell SOURCE class=C shape=S state=S severity=S target=T netns=N
//	zone=N spoofable=yes|no expires=TIME id=ID unlisted=WHY why=SENTENCE
//
// block says that SOURCE may be blocked; tell that it must not be, or that it is over.
// Before SOURCE there is nothing that somebody else has chosen, so that an expression
// anchored at the beginning cannot be deceived. What is not known is -; a value that is
// not one plain word stands in quotes with escapes as in Go.
func (f former) plain(b []byte, t Telling) ([]byte, error) {
	verb := "block"
	if t.Unlisted != "" {
		verb = "tell"
	}
	b = append(append(append(b, millis(t.Time)...), " ctsight "...), verb...)
	b = append(append(b, ' '), dash(view.SourceText(t.Source))...)
	expires := ""
	if !t.Expires.IsZero() {
		expires = millis(t.Expires)
	}
	target := ""
	if t.Target != (agg.Target{}) {
		target = targetWord(&t.Target)
	}
	for _, v := range []struct{ key, value string }{
		{"class", t.Class}, {"shape", t.Shape}, {"state", t.State}, {"severity", t.Severity}, {"target", target},
		{"netns", strconv.FormatUint(uint64(t.NetNS), 10)}, {"zone", strconv.Itoa(int(t.Zone))},
		{"spoofable", yes(t.Spoofable)}, {"expires", expires}, {"id", t.ID},
	} {
		b = append(append(append(b, ' '), v.key...), '=')
		b = view.AppendName(b, dash(v.value))
	}
	b = view.AppendQuoted(append(b, " unlisted="...), t.Unlisted)
	return append(view.AppendQuoted(append(b, " why="...), t.Why), '\n'), nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// targetWord is tcp/10.0.0.1/443 with what there is of it, without a space.
func targetWord(t *agg.Target) string {
	var parts []string
	if t.Proto != 0 {
		parts = append(parts, event.ProtoName(t.Proto))
	}
	if t.Addr.IsValid() {
		parts = append(parts, view.AddrText(t.Addr.Unmap()))
	}
	if t.Port != 0 {
		parts = append(parts, strconv.Itoa(int(t.Port)))
	}
	return strings.Join(parts, "/")
}

func (f former) json(b []byte, t Telling) ([]byte, error) {
	own, err := f.whole(t)
	return append(append(b, own...), '\n'), err
}

// whole is the finding as ctsight detect -o json has it.
func (f former) whole(t Telling) (json.RawMessage, error) {
	var out bytes.Buffer
	err := view.WriteFindingJSON(&out, t.Finding, view.FindingOptions{Names: f.o.Names})
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), err
}

// line appends doc as one line of JSON.
func line(b []byte, doc any) ([]byte, error) {
	out := bytes.NewBuffer(b)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false) // what is to be escaped is
	err := enc.Encode(doc)
	return out.Bytes(), err
}

// class is how others call a class of ours.
type class struct {
	id        int    // stable for ever
	attack    bool   // somebody does it on purpose
	signature string // what an analyst reads
	category  string // of Suricata's classification.config
	technique string // of MITRE ATT&CK, "" for none
}

// classes have ids that rules of others may refer to: new ones go behind the last.
var classes = map[string]class{
	"scan":                   {9781001, true, "CTSIGHT scan", "Attempted Information Leak", "T1046"},
	"distributed_scan":       {9781002, true, "CTSIGHT distributed scan", "Attempted Information Leak", "T1046"},
	"syn_flood":              {9781003, true, "CTSIGHT SYN flood", "Attempted Denial of Service", "T1499.001"},
	"udp_flood":              {9781004, true, "CTSIGHT UDP flood", "Attempted Denial of Service", "T1498.001"},
	"amplification":          {9781005, true, "CTSIGHT amplification", "Attempted Denial of Service", "T1498.002"},
	"rate_burst":             {9781006, false, "CTSIGHT rate burst", "Misc activity", ""},
	"retry_storm":            {9781007, false, "CTSIGHT retry storm", "Misc activity", ""},
	"service_down":           {9781008, false, "CTSIGHT service down", "Misc activity", ""},
	"connection_hammering":   {9781009, true, "CTSIGHT connection hammering", "Misc Attack", "T1110"},
	"connection_leak":        {9781010, false, "CTSIGHT connection leak", "Misc activity", ""},
	"pool_lost":              {9781011, false, "CTSIGHT pool lost", "Misc activity", ""},
	"new_connection_pattern": {9781012, false, "CTSIGHT new connection pattern", "Misc activity", ""},
	"polling_dead_targets":   {9781013, false, "CTSIGHT polling dead targets", "Misc activity", ""},
	"table_filling":          {9781014, false, "CTSIGHT conntrack table filling", "Misc activity", ""},
	"nat_pool_filling":       {9781015, false, "CTSIGHT NAT pool filling", "Misc activity", ""},
	"upstream_outage":        {9781016, false, "CTSIGHT upstream outage", "Misc activity", ""},
}

// classOf is that of a class nobody knows yet too.
func classOf(name string) class {
	if c, ok := classes[name]; ok {
		return c
	}
	return class{9781000, false, "CTSIGHT finding", "Misc activity", ""}
}

// urgency is 1 for the highest.
func urgency(severity string) int {
	switch severity {
	case agg.Page:
		return 1
	case agg.Feed:
		return 2
	}
	return 3
}

// alarm says whether a telling is that somebody attacks, and not a suspicion, nor the end of it.
func (t Telling) alarm() bool { return t.State == agg.Confirmed && classOf(t.Class).attack }

// peer is the other side as an address: the target, or where there is not one an
// example, as an intrusion detection shows the packet that it saw. The source is never
// taken from an example: somebody might block it.
func (t Telling) peer() (addr string, port uint16, proto uint8) {
	g := t.Target
	if !g.Addr.IsValid() && t.Source.IsValid() && len(t.Evidence.Samples) > 0 {
		s := t.Evidence.Samples[0].Orig
		g.Addr = s.Dst
		if g.Port == 0 && !s.IsICMP() && (g.Proto == 0 || g.Proto == s.Proto) {
			g.Proto, g.Port = s.Proto, s.Dport
		}
	}
	if g.Addr.IsValid() {
		addr = view.AddrText(g.Addr.Unmap())
	}
	return addr, g.Port, g.Proto
}

// address is the source as a field that takes addresses only; of a prefix the first.
func address(p netip.Prefix) string {
	p, ok := normal(p)
	if !ok {
		return ""
	}
	return p.Addr().String()
}

// EVE, the JSON of Suricata: https://docs.suricata.io/en/latest/output/eve/eve-json-format.html
type (
	eveDoc struct {
		Timestamp string          `json:"timestamp"`
		EventType string          `json:"event_type"`
		Host      json.RawMessage `json:"host,omitempty"`
		SrcIP     string          `json:"src_ip,omitempty"`
		DestIP    string          `json:"dest_ip,omitempty"`
		DestPort  uint16          `json:"dest_port,omitempty"`
		Proto     string          `json:"proto,omitempty"`
		Alert     *eveAlert       `json:"alert,omitempty"`
		Anomaly   *eveAnomaly     `json:"anomaly,omitempty"`
		Ctsight   json.RawMessage `json:"ctsight"`
	}
	eveAlert struct {
		Action      string          `json:"action"`
		GID         int             `json:"gid"`
		SignatureID int             `json:"signature_id"`
		Rev         int             `json:"rev"`
		Signature   json.RawMessage `json:"signature"`
		Category    string          `json:"category"`
		Severity    int             `json:"severity"`
	}
	eveAnomaly struct {
		Type  string          `json:"type"`
		Event json.RawMessage `json:"event"`
	}
)

// eve is an alert for an attack that is confirmed and an anomaly for anything else: a
// suspicion, an incident that nobody attacks in, the end of one.
func (f former) eve(b []byte, t Telling) ([]byte, error) {
	own, err := f.whole(t)
	if err != nil {
		return b, err
	}
	doc := eveDoc{Timestamp: eveTime(t.Time), EventType: "anomaly", Host: f.host(), SrcIP: address(t.Source), Ctsight: own}
	var proto uint8
	doc.DestIP, doc.DestPort, proto = t.peer()
	if proto != 0 {
		doc.Proto = strings.ToUpper(event.ProtoName(proto))
	}
	if c := classOf(t.Class); t.alarm() {
		signature := c.signature
		if t.Shape != "" {
			signature += " " + t.Shape
		}
		doc.EventType = "alert"
		doc.Alert = &eveAlert{Action: "allowed", GID: 1, SignatureID: c.id, Rev: 1, Signature: view.Quoted(signature), Category: c.category, Severity: urgency(t.Severity)}
	} else {
		doc.Anomaly = &eveAnomaly{Type: "conntrack", Event: view.Quoted(t.Class + "_" + t.State)}
	}
	return line(b, doc)
}

// eveTime is Suricata's form of ISO 8601.
func eveTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-0700") }

func (f former) host() json.RawMessage {
	if f.o.Host == "" {
		return nil
	}
	return view.Quoted(f.o.Host)
}

func number(n int) string { return strconv.Itoa(n) }
