package filter

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

var testOptions = Options{NetNS: func(name string) (event.NetNS, bool) {
	n, ok := map[string]event.NetNS{"blue": 4026532000, "my ns": 4026532001, "7": 4026532002}[name]
	return n, ok
}}

func TestString(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"  \t", ""},
		{"src 10.0.0.0/8 and dport 53", "src 10.0.0.0/8 and dport 53"},
		{"SRC=10.0.0.7 DST=10.0.0.53 sport=40000 dport=53", "src 10.0.0.7 and dst 10.0.0.53 and sport 40000 and dport 53"},
		{"src 10.1.2.3/8", "src 10.0.0.0/8"},
		{"not proto udp", "not proto udp"},
		{"!udp && (tcp || icmp)", "not proto udp and (proto tcp or proto icmp)"},
		{"not not new", "new"},
		{"not (new or drop)", "not (new or drop)"},
		{"not (new and drop) or note", "not (new and drop) or note"},
		{"a or b", ""}, // an error, see TestErrors
		{"new or drop and note", "new or drop and note"},
		{"(new or drop) and note", "(new or drop) and note"},
		{"((new) and (drop and note))", "new and drop and note"},
		{"reason table_full", "reason table_full"},
		{"reason TABLE-FULL,nat_exhausted, 63", "reason table_full,nat_exhausted,63"},
		{"cause early_drop", "cause early_drop"},
		{"cause unknown", "cause unknown"},
		{"netns 4026531840", "netns 4026531840"},
		{"netns blue", "netns 4026532000"},
		{`netns "my ns"`, "netns 4026532001"},
		{`netns "7"`, "netns 4026532002"},
		{"zone 7", "zone 7"},
		{"mark 0x10", "mark 0x10"},
		{"mark 16/0xff", "mark 0x10/0xff"},
		{"event new,drop", "event new,drop"},
		{"kind destroy", "destroy"},
		{"invalid note destroy", "invalid and note and destroy"},
		{"sport 1000-2000", "sport 1000-2000"},
		{"dport 1000:2000,53", "dport 1000-2000,53"},
		{"host 2001:db8::1 or net fe80::/10", "host 2001:db8::1 or host fe80::/10"},
		{"src host 10.0.0.1 dst net 10.0.0.0/8 src port 53 dst port 80", "src 10.0.0.1 and dst 10.0.0.0/8 and sport 53 and dport 80"},
		{"tcp port 80", "proto tcp and port 80"},
		{"dport != 53", "not dport 53"},
		{"not dport != 53", "dport 53"},
		{"orig-src 10.0.0.1 orig_dst 10.0.0.2 reply-src 10.0.0.3 reply-dst 10.0.0.4", "src 10.0.0.1 and dst 10.0.0.2 and reply-src 10.0.0.3 and reply-dst 10.0.0.4"},
		{"reply-port-src 53 reply-dport 1", "reply-sport 53 and reply-dport 1"},
		{"status ASSURED", "status assured"},
		{"assured or unreplied", "status assured or not status seen_reply"},
		{"state established", "state ESTABLISHED"},
		{"state TIME-WAIT,time_wait", "state TIME_WAIT,TIME_WAIT"},
		{"snat dnat any-nat nat both", "nat snat,both and nat dnat,both and nat snat,dnat,both and nat both"},
		{"ip or family inet6", "family ipv4 or family ipv6"},
		{"icmp-type 8 icmp-code 0 icmp-id 1-5", "icmp-type 8 and icmp-code 0 and icmp-id 1-5"},
		{"hook Prerouting", "hook prerouting"},
		{"pid 1 comm conntrack", `pid 1 and comm "conntrack"`},
		{`comm "a \"b\" and\x1b"`, `comm "a \"b\" and\x1b"`},
		{"proto 47,50", "proto gre,50"},
		{"src ::ffff:10.0.0.1", "src 10.0.0.1"},
	} {
		f, err := Parse(tc.in, testOptions)
		if tc.in == "a or b" {
			if err == nil {
				t.Errorf("%q: no error", tc.in)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tc.in, err)
			continue
		}
		if got := f.String(); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		in   string
		col  int
		want []string // parts of the message
	}{
		{"resaon table_full", 1, []string{`"resaon"`, `did you mean "reason"?`}},
		{"src 10.0.0.0/8 and dprt 53", 20, []string{`did you mean "dport"?`}},
		{"reason table_ful", 8, []string{"expected a reason", `did you mean "table_full"?`}},
		{"reason early_drop", 8, []string{`did you mean "cause early_drop"?`}},
		{"cause table_full", 7, []string{`did you mean "reason table_full"?`}},
		{"reason xyzzy", 8, []string{"known: table_full ct_nomem"}},
		{"cause xyzzy", 7, []string{"timeout_gc"}},
		{"reason 256", 8, []string{"expected a reason"}},
		{"src", 4, []string{"expected an address", "the end"}},
		{"src and dst 10.0.0.1", 5, []string{"expected an address", `"and"`}},
		{"src 10.0.0.1/33", 5, []string{"expected an address"}},
		{"src 10.0.0", 5, []string{"expected an address"}},
		{"src fe80::1%eth0", 5, []string{"expected an address"}},
		{"dport 70000", 7, []string{"up to 65535"}},
		{"dport 20-10", 7, []string{"lower end first"}},
		{"dport domain", 7, []string{"a port or a range"}},
		{"(new or drop", 13, []string{`the ")" of column 1`}},
		{"new)", 4, []string{`expected "and", "or" or the end`}},
		{"new or", 7, []string{"the end"}},
		{"and new", 1, []string{"expected a word"}},
		{"not", 4, []string{"expected a word"}},
		{"new & drop", 5, []string{`expected "&&"`}},
		{"new | drop", 5, []string{`expected "||"`}},
		{"netns green", 7, []string{"no network namespace", `"green"`}},
		{`comm "abc`, 6, []string{"closing"}},
		{`"new"`, 1, []string{"expected a word"}},
		{"10.0.0.1", 1, []string{`did you mean "host 10.0.0.1"?`}},
		{"10.0.0.0/8", 1, []string{`did you mean "net 10.0.0.0/8"?`}},
		{"53", 1, []string{`did you mean "port 53"?`}},
		{"table_full", 1, []string{`did you mean "reason table_full"?`}},
		{"established", 1, []string{`did you mean "state ESTABLISHED"?`}},
		{"status asured", 8, []string{`did you mean "assured"?`}},
		{"proto tpc", 7, []string{`did you mean "tcp"?`}},
		{"mark 0xg", 6, []string{"expected a mark"}},
		{"zone 65536", 6, []string{"up to 65535"}},
		{"dport 53,", 10, []string{"the end"}},
		{"ünïcode", 1, nil},
		{"comm ü nwe", 8, []string{`did you mean "new"?`}},
		{"\x1b[31mred", 1, []string{`\x1b[31mred`}},
		{strings.Repeat("x", 5000), 1, []string{"..."}},
		{strings.Repeat("(", 5000), 201, []string{"more than 200"}},
	} {
		_, err := Parse(tc.in, testOptions)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%.40q: error %v", tc.in, err)
			continue
		}
		if se.Column != tc.col {
			t.Errorf("%.40q: column %d, want %d: %v", tc.in, se.Column, tc.col, err)
		}
		for _, w := range tc.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.40q: %q does not say %q", tc.in, err, w)
			}
		}
		if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 1000 {
			t.Errorf("%.40q: not one short line: %q", tc.in, err)
		}
	}
	if _, err := Parse("netns blue", Options{}); err == nil {
		t.Error("a name without a resolver: no error")
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestMatch(t *testing.T) {
	ev := event.Event{
		Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: 4026531840, Zone: 7, Mark: 0x110,
		Orig:   event.Tuple{Src: addr("10.0.0.7"), Dst: addr("192.0.2.1"), Sport: 40000, Dport: 53, Proto: event.ProtoTCP},
		Reply:  event.Tuple{Src: addr("10.9.9.9"), Dst: addr("10.0.0.7"), Sport: 5353, Dport: 40000, Proto: event.ProtoTCP},
		Status: event.Confirmed | event.Assured, TCPState: 4, Hook: 1, Task: event.Task{PID: 77, Comm: "my tool"},
	}
	ping := event.Event{
		Kind: event.Drop, Reason: event.TableFull,
		Orig: event.Tuple{Src: addr("fe80::1"), Dst: addr("fe80::2"), Sport: 53, Dport: 128 << 8, Proto: event.ProtoICMPv6},
	}
	for _, tc := range []struct {
		filter     string
		onEv, ping bool
	}{
		{"", true, true},
		{"destroy", true, false},
		{"event destroy,drop", true, true},
		{"cause early_drop", true, false},
		{"not cause early_drop", false, true},
		{"reason table_full", false, true},
		{"cause unknown", false, false}, // of a drop there is no cause
		{"src 10.0.0.0/8", true, false},
		{"src 0.0.0.0/0", true, false},
		{"dst 10.0.0.0/8", false, false},
		{"host 192.0.2.1,fe80::2", true, true},
		{"reply-src 10.9.9.9", true, false},
		{"reply-dst ::/0", false, false},
		{"sport 40000", true, false},
		{"sport 53", false, false}, // the id of an echo is no port
		{"port 53", true, false},
		{"port 0-65535", true, false},
		{"not port 53", false, true},
		{"reply-sport 5000-6000", true, false},
		{"reply-dport 0-65535", true, false},
		{"proto tcp,58", true, true},
		{"ip6", false, true},
		{"ipv4", true, false},
		{"icmp-type 128 icmp-code 0 icmp-id 53", false, true},
		{"icmp-type 0-255", false, true},
		{"netns 4026531840 zone 7", true, false},
		{"mark 0x10/0xff", true, false},
		{"mark 0x10", false, false},
		{"hook prerouting", true, false},
		{"assured", true, false},
		{"status seen_reply,assured", true, false},
		{"unreplied", true, true},
		{"state ESTABLISHED", true, false},
		{"state none", false, false}, // not TCP is no state
		{"dnat", true, false},
		{"snat", false, false},
		{"nat none", false, true},
		{`pid 77 comm "my tool"`, true, false},
		{"drop or src 10.0.0.7 and dport 54", false, true},
		{"(drop or src 10.0.0.7) and not dport 54", true, true},
	} {
		f, err := Parse(tc.filter, testOptions)
		if err != nil {
			t.Errorf("%q: %v", tc.filter, err)
			continue
		}
		if got := f.Match(&ev); got != tc.onEv {
			t.Errorf("%q on the TCP event: %v", tc.filter, got)
		}
		if got := f.Match(&ping); got != tc.ping {
			t.Errorf("%q on the ping: %v", tc.filter, got)
		}
		k := f.Kernel()
		if f.Match(&ev) && !k.Match(&ev) || f.Match(&ping) && !k.Match(&ping) {
			t.Errorf("%q: its kernel part %+v refuses a match", tc.filter, k)
		}
	}
	var none *Filter
	if !none.Match(&ev) || none.String() != "" || !none.Kernel().Any() {
		t.Error("the nil filter must match all")
	}
}

func BenchmarkMatch(b *testing.B) {
	f, err := Parse("src 10.0.0.0/8 and (dport 53 or dport 443) and not reason ruleset_new", Options{})
	if err != nil {
		b.Fatal(err)
	}
	e := event.Event{Kind: event.New, Orig: event.Tuple{Src: addr("10.0.0.7"), Dst: addr("192.0.2.1"), Sport: 40000, Dport: 443, Proto: event.ProtoTCP}}
	b.ReportAllocs()
	for b.Loop() {
		if !f.Match(&e) {
			b.Fatal("no match")
		}
	}
}

func TestFields(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "",
		"drop":                                  "event",
		"src 10.0.0.0/8 and dport 53":           "src dport",
		"not (udp or udp) and (zone 1 or snat)": "proto zone nat",
		"orig-src ::1":                          "src",
	} {
		f, err := Parse(text, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(f.Fields(), " "); got != want {
			t.Errorf("%q looks at %q, want %q", text, got, want)
		}
	}
}
