package probe

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
)

// TestConstants compares numbers that both sides of the border write down with
// those of bpf/.
func TestConstants(t *testing.T) {
	if lab.InVM() {
		t.Skip("reads bpf/, which is not in the guest")
	}
	c := defines(t)
	for _, tc := range []struct {
		name string
		got  int64
	}{
		{"PEEK_BATCH", peekBatch},
		{"RECENT", recentPerCPU},
		{"RING_SLACK", ringSlack},
		{"RF_EXT", flagExt},
		{"RF_TASK", flagTask},
		{"RF_USER", flagUser},
		{"RF_REPLY_ONLY", flagReplyOnly},
		{"RF_TCP_FLAGS", flagTCPFlags},
		{"K_EVICTOR", kindEvictor},
		{"K_EXT", kindExt},
		{"PEEK_GONE", int64(PeekGone)},
		{"PEEK_LIVE", int64(PeekLive)},
		{"PEEK_FAULT", int64(PeekFault)},
		{"NETNS_OTHER", int64(OtherNetNS)},
		{"NETNS_LEAVING", netnsLeaving},
		{"COUNT_WAYS", countWays},
		{"R_MAX", event.NumReasons},
		{"C_MAX", event.NumCauses},
		{"MAX_RANGES", int64(len(abi.ConntrackCtKsyms{}.Range))},
		{"IPS_CONFIRMED", int64(event.Confirmed)},
		{"IPS_DYING", int64(event.Dying)},
		{"IPS_SEEN_REPLY", int64(event.SeenReply)},
		{"IPS_TEMPLATE", int64(event.Template)},
		{"IPS_NAT_MASK", int64(event.SrcNAT | event.DstNAT)},
	} {
		if want, ok := c[tc.name]; !ok || want != tc.got {
			t.Errorf("%s is %d in Go, %d (%t) in bpf/", tc.name, tc.got, want, ok)
		}
	}
}

var (
	define     = regexp.MustCompile(`(?m)^#define (\w+) +([^\n/]+)`)
	enumerator = regexp.MustCompile(`(?m)^\t(\w+) = (\w+),`)
	shift      = regexp.MustCompile(`1U? << (\d+)`)
)

// defines are the numbers that headers give a name, by #define or in an enum.
func defines(t *testing.T) map[string]int64 {
	t.Helper()
	headers, err := filepath.Glob(filepath.Join("..", "..", "bpf", "*.h"))
	if err != nil || len(headers) == 0 {
		t.Fatalf("no headers: %v", err)
	}
	out := map[string]int64{}
	for _, h := range headers {
		text, err := os.ReadFile(h)
		if err != nil {
			t.Fatal(err)
		}
		for _, re := range []*regexp.Regexp{define, enumerator} {
			for _, m := range re.FindAllStringSubmatch(string(text), -1) {
				if n, ok := number(m[2]); ok {
					out[m[1]] = n
				}
			}
		}
	}
	return out
}

// number reads 0x10, 16, (1 << 4) and sums of bits.
func number(s string) (n int64, ok bool) {
	s = strings.TrimSpace(s)
	if bits := shift.FindAllStringSubmatch(s, -1); bits != nil {
		for _, b := range bits {
			i, _ := strconv.Atoi(b[1])
			n |= 1 << i
		}
		return n, true
	}
	n, err := strconv.ParseInt(s, 0, 64)
	return n, err == nil
}
