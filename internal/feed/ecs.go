package feed

import (
	"encoding/json"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

// The Elastic Common Schema, https://www.elastic.co/guide/en/ecs/current/ecs-field-reference.html
type (
	ecsDoc struct {
		Timestamp   string          `json:"@timestamp"`
		ECS         ecsVersion      `json:"ecs"`
		Message     json.RawMessage `json:"message"`
		Event       ecsEvent        `json:"event"`
		Rule        ecsRule         `json:"rule"`
		Source      *ecsSide        `json:"source,omitempty"`
		Destination *ecsSide        `json:"destination,omitempty"`
		Network     *ecsNetwork     `json:"network,omitempty"`
		Related     *ecsRelated     `json:"related,omitempty"`
		Threat      *ecsThreat      `json:"threat,omitempty"`
		Observer    ecsObserver     `json:"observer"`
		Ctsight     json.RawMessage `json:"ctsight"`
	}
	ecsVersion struct {
		Version string `json:"version"`
	}
	ecsEvent struct {
		ID       json.RawMessage `json:"id"`
		Kind     string          `json:"kind"`
		Category []string        `json:"category"`
		Type     []string        `json:"type"`
		Action   json.RawMessage `json:"action"`
		Module   string          `json:"module"`
		Dataset  string          `json:"dataset"`
		Severity int             `json:"severity"`
		Reason   json.RawMessage `json:"reason"`
		Start    string          `json:"start"`
		End      string          `json:"end"`
		Duration int64           `json:"duration"` // nanoseconds
	}
	ecsRule struct {
		ID       string `json:"id"`
		Name     string `json:"name"`
		Category string `json:"category"`
		Ruleset  string `json:"ruleset"`
	}
	ecsSide struct {
		Address string `json:"address"` // a prefix too
		IP      string `json:"ip,omitempty"`
		Port    uint16 `json:"port,omitempty"`
	}
	ecsNetwork struct {
		Transport string `json:"transport,omitempty"`
		IANA      string `json:"iana_number,omitempty"`
		Type      string `json:"type,omitempty"`
	}
	ecsRelated struct {
		IP []string `json:"ip"`
	}
	ecsThreat struct {
		Framework string         `json:"framework"`
		Technique []ecsTechnique `json:"technique"`
	}
	ecsTechnique struct {
		ID string `json:"id"`
	}
	ecsObserver struct {
		Product  string          `json:"product"`
		Type     string          `json:"type"`
		Hostname json.RawMessage `json:"hostname,omitempty"`
	}
)

func (f former) ecs(b []byte, t Telling) ([]byte, error) {
	own, err := f.whole(t)
	if err != nil {
		return b, err
	}
	c := classOf(t.Class)
	doc := ecsDoc{
		Timestamp: ecsTime(t.Time), ECS: ecsVersion{"8.11.0"}, Message: view.Quoted(t.Why), Event: ecsEventOf(t),
		Rule:     ecsRule{number(c.id), c.signature, c.category, "ctsight"},
		Observer: ecsObserver{Product: "ctsight", Type: "sensor", Hostname: f.host()},
		Ctsight:  own,
	}
	addr, port, proto := t.peer()
	if addr != "" {
		doc.Destination = &ecsSide{Address: addr, IP: addr, Port: port}
	}
	if s := view.SourceText(t.Source); s != "" {
		doc.Source = &ecsSide{Address: s}
		if t.Source.IsSingleIP() {
			doc.Source.IP = s
			doc.Related = &ecsRelated{[]string{s}}
		}
	}
	doc.Network = ecsNetworkOf(t, proto)
	if t.alarm() && c.technique != "" {
		doc.Threat = &ecsThreat{"MITRE ATT&CK", []ecsTechnique{{c.technique}}}
	}
	return line(b, doc)
}

func ecsEventOf(t Telling) ecsEvent {
	e := ecsEvent{
		ID: view.Quoted(t.ID), Kind: "event", Category: []string{"network"}, Type: []string{"info"}, Action: view.Quoted(t.Class),
		Module: "ctsight", Dataset: "ctsight.finding", Severity: urgency(t.Severity), Reason: view.Quoted(t.Why),
		Start: ecsTime(t.First), End: ecsTime(t.Last), Duration: int64(max(0, t.Last.Sub(t.First))),
	}
	if t.alarm() {
		e.Kind, e.Category = "alert", []string{"network", "intrusion_detection"}
	}
	if t.State == agg.Cleared {
		e.Type = []string{"end"}
	}
	return e
}

func ecsNetworkOf(t Telling, proto uint8) *ecsNetwork {
	var n ecsNetwork
	if proto != 0 {
		n.Transport, n.IANA = event.ProtoName(proto), number(int(proto))
		if n.Transport == n.IANA {
			n.Transport = ""
		}
	}
	if p, ok := normal(t.Source); ok {
		n.Type = "ipv6"
		if p.Addr().Is4() {
			n.Type = "ipv4"
		}
	}
	if n == (ecsNetwork{}) {
		return nil
	}
	return &n
}

func ecsTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }
