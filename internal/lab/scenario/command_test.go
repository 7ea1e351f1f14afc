package scenario

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/netlab"
)

// The table-full scenario through the command itself: 1,000 new UDP tuples of
// four sources into a table of 300. With -v the text form is printed.
func TestDropsCommand(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 300, 16384)
	f := udp(250)
	f.Src, f.SpreadSources = netlab.Addrs{First: netip.MustParseAddr("198.51.100.1"), N: 4}, true
	text := drops(t, r, f, "text")
	t.Log("\n" + text)
	if !strings.Contains(text, "table_full") || !strings.Contains(text, "balance") {
		t.Errorf("the ledger names no table_full or has no balance:\n%s", text)
	}
	run(t, r, "conntrack", "-F")

	var doc struct {
		Totals struct {
			New  uint64
			Drop map[string]uint64
		}
		Drops []struct {
			Src   string
			Count uint64
		}
		Balance []struct {
			NetNS      uint32 `json:"netns"`
			Counter    string
			Difference *int64
		}
		Loss struct{ Seen, Delivered, Aggregated, Lost uint64 }
	}
	out := drops(t, r, f, "json")
	must(t, json.Unmarshal([]byte(out), &doc))
	if got := doc.Totals.New + doc.Totals.Drop["table_full"]; got != 1000 {
		t.Errorf("new + table_full = %d, sent 1000", got)
	}
	var bySource uint64
	for _, d := range doc.Drops {
		bySource += d.Count
	}
	if bySource != doc.Totals.Drop["table_full"] {
		t.Errorf("drops by source add up to %d, the total is %d", bySource, doc.Totals.Drop["table_full"])
	}
	rows := 0
	for _, b := range doc.Balance {
		if b.NetNS != uint32(r.R.Inode()) || b.Difference == nil {
			continue
		}
		if rows++; *b.Difference != 0 {
			t.Errorf("%s: difference %d", b.Counter, *b.Difference)
		}
	}
	if rows < 4 {
		t.Errorf("only %d counters were compared", rows)
	}
	if l := doc.Loss; l.Seen != l.Delivered+l.Aggregated+l.Lost || l.Lost != 0 {
		t.Errorf("loss: %+v", l)
	}
}

// begin starts a command that logs to stderr, and waits until it says mark.
func begin(t *testing.T, cmd *exec.Cmd, mark string) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	attached := make(chan bool, 1)
	go func() {
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			if strings.Contains(sc.Text(), mark) {
				attached <- true
			}
		}
		close(attached)
	}()
	select {
	case ok := <-attached:
		if !ok {
			t.Fatalf("%v ended: %v", cmd.Args, cmd.Wait())
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("%v does not say %s", cmd.Args, mark)
	}
}

// drops runs `ctsight drops` around the sending of f.
func drops(t *testing.T, r *netlab.Router, f netlab.Flows, format string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ctsight", "drops", "--for", "10m", "--log.level", "debug", "-o", format)
	var out strings.Builder
	cmd.Stdout = &out
	begin(t, cmd, "msg=tracing")
	send(t, r, f)
	must(t, cmd.Process.Signal(os.Signal(syscall.SIGINT)))
	must(t, cmd.Wait())
	return out.String()
}

// Who fills the table, through the command: what it says of each source is what
// was sent, also of one that had entries before.
func TestTopCommand(t *testing.T) {
	r := router(t, netlab.Options{})
	send(t, r, sources("198.51.100.1", 2, 50, netlab.Sink(0)))
	cmd := exec.CommandContext(t.Context(), "ctsight", "top", "-o", "json", "--for", "10m", "--sort", "live", "--top", "2", "--log.level", "debug")
	var out strings.Builder
	cmd.Stdout = &out
	begin(t, cmd, "msg=attached")
	time.Sleep(3 * time.Second) // until the tables are read
	send(t, r, sources("198.51.100.2", 3, 100, netlab.Sink(1)))
	time.Sleep(2 * time.Second)
	must(t, cmd.Process.Signal(os.Signal(syscall.SIGINT)))
	must(t, cmd.Wait())
	t.Log("\n" + out.String())
	var doc struct {
		Table []struct {
			NetNS          uint32 `json:"netns"`
			Entries, Known uint64
			Difference     *int64
			Threshold      string
		}
		Sources []struct {
			Src       string
			NetNS     uint32 `json:"netns"`
			New, Live uint64
			Dports    uint64 `json:"distinct_dports"`
		}
		Other struct{ New, Live uint64 }
	}
	must(t, json.Unmarshal([]byte(out.String()), &doc))
	if len(doc.Sources) != 2 || doc.Sources[0].Src != "198.51.100.2" || doc.Sources[0].New != 100 || doc.Sources[0].Live != 150 ||
		doc.Sources[1].New != 100 || doc.Sources[1].Live != 100 || doc.Sources[0].Dports != 1 {
		t.Errorf("%+v", doc.Sources)
	}
	if doc.Other.New < 100 || doc.Other.Live < 150 {
		t.Errorf("other: %+v", doc.Other)
	}
	for _, s := range doc.Table {
		if s.NetNS == uint32(r.R.Inode()) && (s.Entries != 400 || s.Difference == nil || *s.Difference != 0) {
			t.Errorf("table: %+v", s)
		}
	}
}
