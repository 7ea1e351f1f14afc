package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

func TestEventText(t *testing.T) {
	got := renderEvents(t, testOptions())
	golden(t, "events.txt", got)
	harmless(t, got)
	if n := bytes.Count(got, []byte("\n")); n != len(testEvents()) {
		t.Errorf("%d lines for %d events", n, len(testEvents()))
	}
}

func TestEventColor(t *testing.T) {
	o := testOptions()
	o.Color, o.Date = true, true
	golden(t, "events.color.txt", renderEvents(t, o))
}

func TestEventJSON(t *testing.T) {
	o := testOptions()
	o.JSON, o.Color = true, true // colour must not get in
	got := renderEvents(t, o)
	golden(t, "events.json", got)
	harmless(t, got)
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	for i, e := range testEvents() {
		checkContract(t, &e, decode(t, []byte(lines[i])), lines[i])
	}
}

// checkContract has the table of section 2 of the contract.
func checkContract(t *testing.T, e *event.Event, m map[string]any, line string) {
	t.Helper()
	drop, destroy, entry := e.Kind == event.Drop, e.Kind == event.Destroy, e.Kind == event.New || e.Kind == event.Destroy
	name := testNames.netns(e.NetNS)
	for key, want := range map[string]bool{
		"time": true, "event": true, "netns": true, "proto": true, "orig": true,
		"reason":      drop || e.Kind == event.Note || e.Kind == event.Invalid,
		"cause":       destroy,
		"netns_name":  name != "",
		"zone":        e.Zone != 0,
		"mark":        e.Mark != 0,
		"reply":       !e.Reply.IsZero(),
		"nat":         e.NAT() != "",
		"status":      entry,
		"lifetime_ns": destroy && e.HasLifetime,
		"timeout_ns":  destroy && e.Timeout != 0,
		"tcp_state":   destroy && e.TCPState != 0,
		"tcp_flags":   e.HasTCPFlags,
		"by":          destroy && !e.By.IsZero(),
		"task":        e.Task.PID != 0,
		"nat_pool":    e.NATPool().Addr.IsValid(),
		"iif":         e.IIf != 0, "oif": e.OIf != 0, "hook": e.Hook != 0,
		"kfree_reason": e.KfreeReason != 0,
		"location":     testNames.symbol(e.Location) != "",
		"sample":       e.Sample > 1,
		"best_effort":  e.BestEffort,
	} {
		if _, ok := m[key]; ok != want {
			t.Errorf("%s: there %v, want %v in %s", key, ok, want, line)
		}
	}
	for _, c := range eventColumns() {
		delete(m, c.key)
	}
	if len(m) != 0 {
		t.Errorf("fields without a column: %v", m)
	}
}

// TestEventJSONValues looks at values that a script relies on.
func TestEventJSONValues(t *testing.T) {
	o := testOptions()
	o.JSON = true
	var out bytes.Buffer
	w := NewEventWriter(&out, o)
	e := testEvents()[7]
	if err := w.Write(&e); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Time          time.Time
		Event, Cause  string
		Proto, NAT    string
		NetNS         uint64
		Status        []string
		LifetimeNS    *int64 `json:"lifetime_ns"`
		TCPState      string `json:"tcp_state"`
		Orig, Reply   struct{ Src, Dst string }
		By            struct{ Proto, Src, Dst string }
		Sport, Sample *int
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if !got.Time.Equal(o.Clock.At(e.Time)) || got.Event != "destroy" || got.Cause != "early_drop" || got.Proto != "udp" ||
		got.NAT != "both" || got.NetNS != ownNS || !slices.Equal(got.Status, []string{"confirmed", "dying"}) ||
		got.LifetimeNS == nil || *got.LifetimeNS != 0 || got.By.Src != "10.6.6.6" || got.By.Proto != "tcp" {
		t.Errorf("got %+v", got)
	}
}

// TestEventTime: nine digits always, also where the record is older than the
// reading of the clocks or crosses a second.
func TestEventTime(t *testing.T) {
	o := testOptions()
	o.JSON = true
	var out bytes.Buffer
	w := NewEventWriter(&out, o)
	for _, k := range []event.Ktime{1_000_000_000, 0, 1, 1_876_543_211, 1_876_543_210, -5_000_000_000, 3_000_000_000_000_000_000} {
		out.Reset()
		e := event.Event{Time: k, Kind: event.New}
		if err := w.Write(&e); err != nil {
			t.Fatal(err)
		}
		want := `{"time":"` + string(appendTime(nil, o.Clock.At(k))) + `",`
		if !strings.HasPrefix(out.String(), want) {
			t.Errorf("time %d: %s, want %s", k, out.String(), want)
		}
	}
}

// TestEventFlags: a segment without flags is not one whose flags are not known.
func TestEventFlags(t *testing.T) {
	for _, tc := range []struct {
		flags      event.TCPFlags
		known      bool
		text, json string
	}{
		{0, false, "", ""},
		{0, true, " flags [none]", `,"tcp_flags":[]`},
		{event.FIN | event.ACK, true, " flags [F.]", `,"tcp_flags":["fin","ack"]`},
	} {
		e := event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, TCPFlags: tc.flags, HasTCPFlags: tc.known}
		for _, js := range []bool{false, true} {
			want := tc.text
			if js {
				want = tc.json
			}
			got := string(NewEventWriter(nil, EventOptions{JSON: js}).append(nil, &e))
			if want == "" && strings.Contains(got, "flags") || !strings.Contains(got, want) {
				t.Errorf("%v %v: %s, want %s", tc.flags, tc.known, got, want)
			}
		}
	}
}

func TestEventWriterZero(t *testing.T) {
	for _, js := range []bool{false, true} {
		var out bytes.Buffer
		w := NewEventWriter(&out, EventOptions{JSON: js}) // no names, no clock
		for _, e := range testEvents() {
			if err := w.Write(&e); err != nil {
				t.Fatal(err)
			}
		}
		harmless(t, out.Bytes())
	}
}

type brokenPipe struct{}

var errBroken = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestEventWriteError(t *testing.T) {
	w := NewEventWriter(brokenPipe{}, EventOptions{})
	if err := w.Write(&event.Event{Kind: event.New}); !errors.Is(err, errBroken) {
		t.Errorf("error %v", err)
	}
}

func TestEventAllocs(t *testing.T) {
	events := testEvents()
	for _, js := range []bool{false, true} {
		o := testOptions()
		o.JSON = js
		o.Names = Names{NetNS: func(event.NetNS) string { return "blue" }}
		w := NewEventWriter(io.Discard, o)
		n := testing.AllocsPerRun(100, func() {
			for i := range events {
				if err := w.Write(&events[i]); err != nil {
					t.Fatal(err)
				}
			}
		})
		if n != 0 {
			t.Errorf("JSON %v: %v allocations", js, n)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0us", 999: "0us", 123 * time.Microsecond: "123us", 350 * time.Millisecond: "350ms", 12345 * time.Millisecond: "12.345s",
		time.Minute: "1m00s", 754 * time.Second: "12m34s", 3*time.Hour + 25*time.Minute: "3h25m", 99 * time.Hour: "4d03h",
		-time.Second: "-1.000s",
	} {
		if got := string(appendDuration(nil, d)); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}

func BenchmarkEventWriter(b *testing.B) {
	for _, tc := range []struct {
		name string
		json bool
		e    event.Event
	}{
		{"json/new", true, testEvents()[1]},
		{"json/destroy", true, testEvents()[6]},
		{"text/new", false, testEvents()[1]},
		{"text/destroy", false, testEvents()[6]},
	} {
		b.Run(tc.name, func(b *testing.B) {
			o := testOptions()
			o.JSON, o.Names = tc.json, Names{}
			w := NewEventWriter(io.Discard, o)
			b.ReportAllocs()
			for b.Loop() {
				tc.e.Time += 1000
				if err := w.Write(&tc.e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
