package pipeline_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/pipeline"
)

// hostileLog turns bytes into a log whose lines are as they should be and whose story
// is none: five bytes a line, for the step in time, what it says, of which entry, from
// and to whom.
func hostileLog(in []byte) string {
	steps := [8]time.Duration{0, 1, time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, time.Second, 3 * time.Second, 40 * time.Second}
	silences := map[byte]time.Duration{252: 10 * time.Minute, 253: time.Hour, 254: 25 * time.Hour, 255: 300 * 24 * time.Hour}
	protos := []string{"tcp", "tcp", "udp", "icmp", "icmpv6", "sctp", "gre", "255", "0"}
	causes := []string{"timeout", "rst", "-", "early_drop", "user_flush", "tcp_reopen", "23"}
	at := int64(1_700_000_000_000_000_000)
	var b strings.Builder
	for ; len(in) >= 5; in = in[5:] {
		at += int64(steps[in[0]&7]) + int64(silences[in[0]])
		if at > 7_200_000_000_000_000_000 {
			break
		}
		what, end := "NNNRAD"[in[1]%6], "-\t-\t-1"
		if what == 'D' {
			end = fmt.Sprintf("%c\t%s\t%d", "URA"[in[1]>>4%3], causes[int(in[1]>>3)%len(causes)], int64(in[2]&15)*int64(steps[in[4]&7])-1) // -1 is not known
		}
		host, net := "192.0.2.%d", "10.0.%d.1"
		if in[3]&1 == 1 {
			host, net = "2001:db8::%x", "2001:db8:%x::1"
		}
		fmt.Fprintf(&b, "%d\t%c\t%d\t%s\t%s\t%d\t%s\t%d\t%s\t1\t1\n", at, what, in[2], protos[int(in[3]>>1)%len(protos)],
			fmt.Sprintf(host, in[3]>>4), int(in[2])*257, fmt.Sprintf(net, in[4]>>3), int(in[4]&7)*11, end)
	}
	return b.String()
}

// Whatever a log says, it is replayed to its end, twice to the same, and every
// finding adds up.
func FuzzReplay(f *testing.F) {
	f.Add([]byte("scan0scan1scan2scan3"))
	var scan, storm []byte
	for i := range byte(120) {
		scan = append(scan, 3, 0, i, 0x20, i<<1, 3, 5, i, 0x20, i<<1)
		storm = append(storm, 4, i%6, i%4, i, 9, 5, 3, i%4, i, 9)
	}
	f.Add(scan)
	f.Add(storm)
	f.Add(append(append(scan, 254, 0, 1, 1, 1), storm...))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<11 {
			t.Skip("long enough")
		}
		log := hostileLog(in)
		out, r, err := replay(t, strings.NewReader(log), pipeline.ReplayConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if again, _, _ := replay(t, strings.NewReader(log), pipeline.ReplayConfig{}); again.String() != out.String() {
			t.Errorf("differs the second time:\n%s", cmp.Diff(out.String(), again.String()))
		}
		for _, x := range out.findings {
			e := &x.Evidence
			if x.Class == "scan" && e.Contacts != e.Refused+e.Unanswered+e.HalfOpen+e.Invalid+e.Answered+e.Pending {
				t.Errorf("%s: its parts are not %d contacts: %+v", x.ID, e.Contacts, *e)
			}
			if x.Last.Before(x.First) || x.Time.Before(x.Last) || x.First.Before(r.First.Add(-time.Minute)) {
				t.Errorf("%s %s: told %v, first %v, last %v, of a log from %v to %v", x.ID, x.Class, x.Time, x.First, x.Last, r.First, r.Last)
			}
		}
	})
}
