package netlab

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

// stats sums the per-CPU counters of conntrack -S.
func stats(tb testing.TB, n *NS) map[string]int {
	tb.Helper()
	out, err := n.Run("conntrack", "-S")
	must(tb, err)
	sum := make(map[string]int)
	for f := range strings.FieldsSeq(out) {
		if k, v, ok := strings.Cut(f, "="); ok && k != "cpu" {
			x, err := strconv.Atoi(v)
			must(tb, err)
			sum[k] += x
		}
	}
	return sum
}

// states counts the lines of conntrack -L by TCP state and assurance.
func states(tb testing.TB, n *NS) map[string]int {
	tb.Helper()
	out, err := n.Run("conntrack", "-L", "-p", "tcp")
	must(tb, err)
	got := make(map[string]int)
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		s := f[3]
		if strings.Contains(line, "[ASSURED]") {
			s += " assured"
		}
		got[s]++
	}
	return got
}

func TestForgedTCP(t *testing.T) {
	r := lab(t, Options{})
	tuples := make([]event.Tuple, 50)
	for i := range tuples {
		tuples[i] = event.Tuple{Src: addr("198.51.100.7"), Dst: ServerV4, Sport: uint16(2000 + i), Dport: 7000, Proto: event.ProtoTCP}
	}
	tuples[0].Src, tuples[0].Dst = ClientV4, Sink(3) // A's own address, a sink
	tc, err := r.ForgeTCP(SendOptions{}, tuples...)
	must(t, err)
	defer tc.End()
	ctx := t.Context()
	for _, s := range []struct {
		do   func() error
		want string
	}{
		{func() error { return tc.Segment(ctx, Client, SYN, nil) }, "SYN_SENT"},
		{func() error { return tc.Segment(ctx, Server, SYN|ACK, nil) }, "SYN_RECV"},
		{func() error { return tc.Segment(ctx, Client, ACK, nil) }, "ESTABLISHED assured"},
		{func() error { return tc.Segment(ctx, Client, PSH|ACK, make([]byte, 100)) }, "ESTABLISHED assured"},
		{func() error { return tc.Segment(ctx, Server, PSH|ACK, make([]byte, 500)) }, "ESTABLISHED assured"},
		{func() error { return tc.Shut(ctx) }, "TIME_WAIT assured"},
		{func() error { return tc.Reopen(ctx) }, "SYN_SENT"},
		{func() error { return tc.Segment(ctx, Server, SYN|ACK, nil) }, "SYN_RECV"},
		{func() error { return tc.Reset(ctx, Server) }, "CLOSE"},
	} {
		must(t, s.do())
		if got := states(t, r.R); len(got) != 1 || got[s.want] != len(tuples) {
			t.Fatalf("states %v, want all %s", got, s.want)
		}
	}
	if got := stats(t, r.R)["invalid"]; got != 0 {
		t.Errorf("%d segments were invalid", got)
	}
	if n := tc.Truth(Client).Packets() + tc.Truth(Server).Packets(); n != 50*11 {
		t.Errorf("truth: %d segments, want %d", n, 50*11)
	}
}

func TestResetWithoutAnswerRemovesEntry(t *testing.T) {
	r := lab(t, Options{})
	tc, err := r.ForgeTCP(SendOptions{}, event.Tuple{Src: ClientV6, Dst: Sink6(0), Sport: 1, Dport: 2, Proto: event.ProtoTCP})
	must(t, err)
	defer tc.End()
	must(t, tc.Segment(t.Context(), Client, SYN, nil))
	if got := entries(t, r.R); got != 1 {
		t.Fatalf("%d entries after SYN, want 1", got)
	}
	must(t, tc.Segment(t.Context(), Client, RST, nil))
	if got := entries(t, r.R); got != 0 {
		t.Errorf("%d entries after RST, want 0", got)
	}
}

// T21: behind masquerade the server sees another source.
func TestForgedTCPThroughNAT(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.Masquerade(Match{Proto: event.ProtoTCP, Dst: SinkV4}, OnePort(10000)))
	tc, err := r.ForgeTCP(SendOptions{}, event.Tuple{Src: ClientV4, Dst: Sink(0), Sport: 1, Dport: 2, Proto: event.ProtoTCP})
	must(t, err)
	defer tc.End()
	tc.Seen = func(t event.Tuple) event.Tuple {
		t.Src, t.Sport = RouterBV4, 10000
		return t
	}
	must(t, tc.Open(t.Context()))
	if got := states(t, r.R); got["ESTABLISHED assured"] != 1 {
		t.Errorf("states %v", got)
	}
	must(t, tc.Shut(t.Context()))
	if got := states(t, r.R); got["TIME_WAIT assured"] != 1 {
		t.Errorf("states %v", got)
	}
}

func TestICMPIDs(t *testing.T) {
	r := lab(t, Options{})
	var ps []Packet
	for id := range 5 {
		ps = append(ps, EchoRequest(ClientV4, ServerV4, uint16(4000+id), 1), EchoRequest(ClientV6, ServerV6, uint16(5000+id), 1))
	}
	_, err := r.SendPackets(SendOptions{}, ps...)
	must(t, err)
	must(t, r.Drain())
	var out string
	for _, f := range []string{"ipv4", "ipv6"} {
		o, err := r.R.Run("conntrack", "-L", "-f", f)
		must(t, err)
		out += o
	}
	for id := range 5 {
		for _, base := range []int{4000, 5000} {
			if n := strings.Count(out, fmt.Sprintf(" id=%d ", base+id)); n != 2 { // both directions: answered
				t.Errorf("id %d is there %d times, want 2\n%s", base+id, n, out)
			}
		}
	}
	if strings.Contains(out, "UNREPLIED") {
		t.Errorf("not all echo requests were answered:\n%s", out)
	}
}
