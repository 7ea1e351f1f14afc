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

// drops runs `ctsight drops` around the sending of f.
func drops(t *testing.T, r *netlab.Router, f netlab.Flows, format string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ctsight", "drops", "--for", "10m", "--log.level", "debug", "-o", format)
	var out strings.Builder
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	attached := make(chan bool, 1)
	go func() {
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			if strings.Contains(sc.Text(), "msg=tracing") {
				attached <- true
			}
		}
		close(attached)
	}()
	select {
	case ok := <-attached:
		if !ok {
			t.Fatalf("ctsight drops ended: %v", cmd.Wait())
		}
	case <-time.After(60 * time.Second):
		t.Fatal("ctsight drops did not attach")
	}
	send(t, r, f)
	must(t, cmd.Process.Signal(os.Signal(syscall.SIGINT)))
	must(t, cmd.Wait())
	return out.String()
}
