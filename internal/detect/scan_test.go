package detect

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// scans returns what was told of scans by a source or prefix, "" for any.
func (w *world) scans(of string) (out []agg.Finding) {
	for _, f := range w.told {
		if f.Class == "scan" && (of == "" || f.Source.String() == of) {
			out = append(out, f)
		}
	}
	return out
}

// Ten endpoints decide and nine do not, whatever time they take.
func TestScanTakesTen(t *testing.T) {
	for _, gap := range []time.Duration{time.Millisecond, 15 * time.Second, 5 * time.Minute, 2 * time.Hour} {
		for _, f := range []fate{refusing, silent, halfway} {
			for n := 9; n <= 10; n++ {
				w := newWorld(t, Config{})
				for i := range n {
					w.connect(time.Second+time.Duration(i)*gap, "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, f, 0)
				}
				w.run(time.Duration(n)*gap + 20*time.Second)
				if got := w.scans(""); (len(got) > 0) != (n == 10) {
					t.Errorf("%d ports each %s, fate %d: told %d times", n, gap, f, len(got))
				} else if n == 10 && (got[0].State != agg.Confirmed || got[0].Shape != "vertical" || got[0].Evidence.Dports != 10) {
					t.Errorf("each %s, fate %d: %s %s: %s", gap, f, got[0].State, got[0].Shape, got[0].Why)
				}
			}
		}
	}
}

// What fails in the very instant in which an alarm is told comes after it, and is told
// too.
func TestScanInOneInstant(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 12 {
		w.connect(time.Second, "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, refusing, 0)
	}
	w.run(30 * time.Second)
	w.d.End(w.now)
	got := w.scans("")
	if len(got) != 2 || got[0].Evidence.Refused != 10 || got[1].Evidence.Refused != 12 {
		t.Errorf("told %d times, want 10 refused and then 12: %+v", len(got), got)
	}
}

// Evidence is kept for a day and no longer.
func TestScanForgetsAfterADay(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 9 {
		w.connect(time.Minute*time.Duration(i), "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, refusing, 0)
	}
	for i := range 9 {
		w.connect(25*time.Hour+time.Minute*time.Duration(i), "198.51.100.1", "192.0.2.1", uint16(2000+i), event.ProtoTCP, refusing, 0)
	}
	w.run(26 * time.Hour)
	if got := w.scans(""); len(got) > 0 {
		t.Errorf("nine ports a day: %s", got[0].Why)
	}
}

// A source with a role is half right on its port; on another port that is no help.
func TestScanByRole(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 200 {
		f := closed
		if i%5 < 2 {
			f = refusing
		}
		w.connect(time.Duration(i)*100*time.Millisecond, "10.0.0.25", fmt.Sprintf("198.51.100.%d", i), 25, event.ProtoTCP, f, time.Second)
	}
	w.run(40 * time.Second)
	if got := w.scans(""); len(got) > 0 {
		t.Errorf("mail with 40 %% dead exchangers: %s", got[0].Why)
	}
	for i := range 40 {
		w.connect(50*time.Second+time.Duration(i)*100*time.Millisecond, "10.0.0.25", fmt.Sprintf("198.51.100.%d", i), 22, event.ProtoTCP, refusing, 0)
	}
	w.run(70 * time.Second)
	got := w.scans("10.0.0.25/32")
	if len(got) == 0 || got[len(got)-1].State != agg.Confirmed || got[len(got)-1].Severity != agg.Page {
		t.Errorf("the same source on another port, of ours: %+v", got)
	}
}

// Answers that come late take back what silence has counted.
func TestScanTakesBack(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 9 {
		w.connect(time.Duration(i)*time.Second, "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, silent, 0)
	}
	for ptr := range w.ptr { // a retransmitted SYN gets through
		w.at(20*time.Second, func() {
			w.live[1<<63|(ptr+1)] = Seen{Known: true, Live: true, Status: event.SeenReply | event.Assured, TCPState: event.TCPEstablished}
		})
	}
	w.connect(60*time.Second, "198.51.100.1", "192.0.2.1", 3000, event.ProtoTCP, silent, 0)
	w.run(80 * time.Second)
	if got := w.scans(""); len(got) > 0 {
		t.Errorf("nine of ten were answered in the end: %s", got[0].Why)
	}
}

// Who comes back to what fails polls: with two thirds dead it is suspect at most, and
// then it is told what it is.
func TestPollingIsNoScan(t *testing.T) {
	for _, every := range []time.Duration{2 * time.Second, 15 * time.Second, time.Minute} {
		w := newWorld(t, Config{})
		for round := range 4 + int(5*time.Minute/every) {
			for i := range 60 {
				f := []fate{closed, refusing, silent}[i%3]
				w.connect(time.Duration(round)*every+time.Duration(i)*every/60, "10.0.0.9", fmt.Sprintf("10.1.0.%d", i), 9100, event.ProtoTCP, f, time.Second)
			}
		}
		w.run(6*time.Minute + 4*every)
		for _, f := range w.scans("") {
			if f.State == agg.Confirmed {
				t.Errorf("each %s: %s", every, f.Why)
			}
		}
		if got := w.of("polling_dead_targets"); len(got) != 1 || got[0].Evidence.Dsts != 40 || got[0].Severity != agg.Info {
			t.Errorf("each %s: told of polling %d times: %+v", every, len(got), got)
		}
	}
}

// A network whose sources fail a little each is one incident, its sources are none;
// a source that is found by itself takes its part out of it.
func TestScanOfNetwork(t *testing.T) {
	for _, x := range []struct {
		sources, ports int
		network        bool
	}{{5, 4, true}, {2, 9, false}, {5, 1, false}} {
		w := newWorld(t, Config{})
		for i := range x.sources * x.ports {
			w.connect(time.Duration(i)*10*time.Second, fmt.Sprintf("198.51.100.%d", 1+i%x.sources), "192.0.2.1", uint16(1000+i), event.ProtoTCP, silent, 0)
		}
		w.run(10 * time.Minute)
		if got := w.scans(""); (len(got) > 0) != x.network {
			t.Errorf("%d sources, %d ports each: told %d times", x.sources, x.ports, len(got))
		} else if x.network && (got[0].Source.String() != "198.51.100.0/24" || got[0].Evidence.Sources < prefixSources) {
			t.Errorf("%s: %s", got[0].Source, got[0].Why)
		}
	}
	w := newWorld(t, Config{})
	for i := range 12 { // one scanner, and two that try a port
		w.connect(time.Duration(i)*time.Second, "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, silent, 0)
	}
	w.connect(20*time.Second, "198.51.100.2", "192.0.2.1", 2000, event.ProtoTCP, silent, 0)
	w.connect(21*time.Second, "198.51.100.3", "192.0.2.1", 2001, event.ProtoTCP, silent, 0)
	w.run(2 * time.Minute)
	if own, net := w.scans("198.51.100.1/32"), w.scans("198.51.100.0/24"); len(own) == 0 || len(net) > 0 {
		t.Errorf("told of the source %d times, of its network %d times", len(own), len(net))
	}
}

// A scan that goes on is raised after 10 min, 1 h and 24 h, and is over a day after
// its end; it has one id.
func TestScanIsRaisedAgain(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 26 * 60 {
		w.connect(time.Duration(i)*time.Minute, "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, refusing, 0)
	}
	w.run(54 * time.Hour)
	var raised []time.Duration
	last := 0
	for _, f := range w.scans("") {
		if f.ID != w.scans("")[0].ID {
			t.Fatalf("another id: %s", f.Why)
		}
		if f.Raised > last {
			last = f.Raised
			raised = append(raised, f.Time.Sub(w.scans("")[0].Time).Round(10*time.Minute))
		}
	}
	if want := fmt.Sprint([]time.Duration{0, 10 * time.Minute, time.Hour, 24 * time.Hour}); fmt.Sprint(raised) != want {
		t.Errorf("raised after %v, want %v", raised, want)
	}
	if all := w.scans(""); all[len(all)-1].State != agg.Cleared || len(all) > 60 {
		t.Errorf("the last of %d says %s", len(all), all[len(all)-1].State)
	}
}

// A scanner that is let in afterwards is for a human.
func TestScanThenSuccess(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 30 {
		w.connect(time.Duration(i)*100*time.Millisecond, "198.51.100.1", "192.0.2.1", uint16(1000+i), event.ProtoTCP, refusing, 0)
	}
	w.connect(60*time.Second, "198.51.100.1", "192.0.2.1", 22, event.ProtoTCP, closed, time.Minute)
	w.run(30 * time.Second)
	got := w.scans("")
	if len(got) == 0 || got[len(got)-1].Severity != agg.Feed || !got[len(got)-1].Spoofable {
		t.Fatalf("before: %+v", got)
	}
	w.run(2 * time.Minute)
	got = w.scans("")
	if f := got[len(got)-1]; f.Severity != agg.Page || f.Spoofable || f.ID != got[0].ID {
		t.Errorf("after: %s, spoofable %v: %s", f.Severity, f.Spoofable, f.Why)
	}
}

// What is for a human is counted once: scans by addresses of ours that are not allowed.
func TestPagedScans(t *testing.T) {
	for _, x := range []struct {
		src     string
		allowed string
		want    uint64
	}{{"10.0.0.9", "", 1}, {"10.0.0.9", "netops", 0}, {"198.51.100.1", "", 0}} {
		w := newWorld(t, Config{Allow: func(netip.Addr, time.Time) string { return x.allowed }})
		for i := range 60 {
			w.connect(time.Duration(i)*20*time.Second, x.src, "192.0.2.1", uint16(1000+i), event.ProtoTCP, refusing, 0)
		}
		w.run(20 * time.Minute)
		if got := w.d.Paged(); len(w.scans("")) < 3 || (x.want > 0) != (len(got) > 0) || len(got) > 0 && got[0] != (agg.ClassCount{Class: "scan", Count: x.want}) {
			t.Errorf("%s, allowed by %q: %v, told %d times", x.src, x.allowed, got, len(w.scans("")))
		}
	}
}
