package scenario

import (
	"encoding/json"
	"math"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// An incident: a source has filled the table of a router that held other entries
// before, and goes on, in the middle of which somebody types ctsight triage. What it says is
// compared with conntrack(8), and the commands that it proposes work.
func TestTriage(t *testing.T) {
	r := router(t, netlab.Options{})
	const most = 4000
	limit(t, r, most, 4096) // early drop always finds a bucket to empty, and one of a few entries
	send(t, r, sources("203.0.113.1", 30, 20, netlab.Sink(1)))
	send(t, r, sources("198.51.100.66", 1, most-600, netlab.Sink(0)))
	f := sources("198.51.100.66", 1, 60000, netlab.Sink(2))
	f.SPorts.First = 5000
	flood(t, r, f, 20)
	out := whileFull(t, r, most, func() []byte {
		cmd := exec.CommandContext(t.Context(), "ctsight", "triage", "--for", "6s", "-o", "json")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		return out
	})
	var doc struct {
		Focus struct {
			NetNS   uint32 `json:"netns"`
			Entries uint64
			Known   uint64
			Max     uint64
		}
		Sources []struct {
			Src  string
			Live uint64
		}
		States []struct {
			Proto   string
			Replied bool
			Count   uint64
		}
		Findings []struct{ Question, Answer, Verdict string }
		Actions  []struct{ What, Command, Caution string }
	}
	must(t, json.Unmarshal(out, &doc))
	text, err := json.MarshalIndent(doc, "", " ")
	must(t, err)
	t.Logf("%s", text)
	truth := held(t, r.R)
	var held0 uint64
	for _, s := range doc.States {
		held0 += s.Count
	}
	if d := int64(doc.Focus.Entries) - int64(doc.Focus.Known); d < -5 || d > 5 {
		t.Errorf("%d entries known of %d", doc.Focus.Known, doc.Focus.Entries)
	}
	if held0 < most-10 || held0 > most {
		t.Errorf("%d entries by state", held0)
	}
	if doc.Focus.NetNS != uint32(r.R.Inode()) || doc.Focus.Max != most || doc.Focus.Entries < 3900 {
		t.Errorf("focus %+v", doc.Focus)
	}
	if len(doc.Sources) == 0 || doc.Sources[0].Src != "198.51.100.66" {
		t.Fatalf("sources %+v", doc.Sources)
	}
	// The flood goes on: since the picture some have gone for others.
	for addr, n := range truth {
		for _, s := range doc.Sources {
			if s.Src == addr.String() && math.Abs(float64(s.Live)-float64(n)) > 0.1*float64(n)+10 {
				t.Errorf("%s holds %d, conntrack lists %d", s.Src, s.Live, n)
			}
		}
	}
	if len(doc.States) == 0 || doc.States[0].Proto != "udp" || doc.States[0].Replied || doc.States[0].Count < 3800 {
		t.Errorf("states %+v", doc.States)
	}
	// Every command is typed as it is printed, in a shell.
	drained := false
	for _, a := range doc.Actions {
		if strings.HasPrefix(a.Command, "ctsight") {
			continue
		}
		out, err := typed(t, a.Command)
		if err != nil {
			t.Errorf("%s\n%s: %v\n%s", a.What, a.Command, err, out)
		}
		if strings.Contains(a.Command, "conntrack -D") {
			drained = true
			if n := held(t, r.R)[netip.MustParseAddr("198.51.100.66")]; n > 300 {
				t.Errorf("after %s it still holds %d", a.Command, n)
			}
		}
	}
	if !drained || len(doc.Actions) < 4 {
		t.Errorf("%d actions: %+v", len(doc.Actions), doc.Actions)
	}
	if rules := run(t, r, "nft", "list", "ruleset"); !strings.Contains(rules, "198.51.100.66") {
		t.Errorf("no rule against the source:\n%s", rules)
	}
}

// typed runs a command line in a shell.
func typed(t *testing.T, command string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// whileFull waits until a table is full and looks at it. If the garbage collector
// evicts meanwhile, on behalf of an early drop that failed in a test before, it
// looks again: that is over when it has come round once.
func whileFull(t *testing.T, r *netlab.Router, most int, look func() []byte) (seen []byte) {
	t.Helper()
	c, err := trace.Dial(r.R)
	must(t, err)
	defer c.Close()
	count := func() int {
		f, err := c.Fill()
		must(t, err)
		return int(f.Count)
	}
	for range 2 {
		until(t, "the table is full", func() bool { return count() >= most })
		stop, least := make(chan struct{}), make(chan int)
		go func() {
			low := most
			for {
				select {
				case <-stop:
					least <- low
					return
				case <-time.After(50 * time.Millisecond):
					if f, err := c.Fill(); err == nil {
						low = min(low, int(f.Count))
					}
				}
			}
		}()
		seen = look()
		close(stop)
		low := <-least
		if low > most-most/50 { // it would not have stopped above 95 %
			return seen
		}
		t.Logf("%d entries while it looked", low)
	}
	t.Errorf("the table of %d is emptied again and again", most)
	return seen
}
