package scenario

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
)

type segments struct {
	scan, name string // nmap's option, "" for answers; the counter
	flags      event.TCPFlags
}

// odd are the segments of scans that make no entry, and of the answers to them.
var odd = []segments{
	{"-sF", "fin", event.FIN},
	{"-sX", "xmas", event.FIN | event.PSH | event.URG},
	{"-sN", "null", 0},
	{"-sM", "maimon", event.FIN | event.ACK},
	{"", "rst_ack", event.RST | event.ACK},
	{"", "rst", event.RST},
}

// Scans by nmap of which conntrack keeps nothing: as many lines as the kernel counts
// invalid packets, each with the flags that nft has seen on the wire.
func TestInvalidScans(t *testing.T) {
	nmap, err := exec.LookPath("nmap")
	if err != nil {
		t.Skip("needs nmap, whose scans these are")
	}
	r := router(t, netlab.Options{})
	rules := "table inet zz { "
	for _, p := range odd {
		rules += fmt.Sprintf("counter %s { }; ", p.name)
	}
	rules += "chain c { type filter hook prerouting priority raw; "
	for _, p := range odd {
		rules += fmt.Sprintf("meta l4proto tcp @th,104,8 %#x counter name %s; ", uint8(p.flags), p.name)
	}
	must(t, r.R.NFT(rules+"}; }"))

	cmd := exec.CommandContext(t.Context(), "ctsight", "trace", "--invalid", "-o", "json", "--log.level", "debug", fmt.Sprintf("netns %d", r.R.Inode()))
	var out strings.Builder
	cmd.Stdout = &out
	before := kernelInvalid(t, r)
	begin(t, cmd, "msg=attached")
	for _, p := range odd {
		if p.scan != "" {
			_, err := r.A.Run(nmap, p.scan, "-n", "-Pn", "-T4", "-p1-200", "--host-timeout", "2m", netlab.ServerV4.String())
			must(t, err)
		}
	}
	_, err = r.A.Run(nmap, "-6", "-sX", "-n", "-Pn", "-T4", "-p1-20", "--host-timeout", "2m", netlab.ServerV6.String())
	must(t, err)
	must(t, r.Drain())
	must(t, cmd.Process.Signal(syscall.SIGINT))
	must(t, cmd.Wait())
	gained := kernelInvalid(t, r) - before

	got, lines := map[string]uint64{}, uint64(0)
	for line := range strings.Lines(out.String()) {
		var e struct {
			Event, Reason string
			Flags         []string `json:"tcp_flags"`
		}
		must(t, json.Unmarshal([]byte(line), &e))
		if e.Event != "invalid" {
			continue
		}
		if lines++; e.Reason != "invalid" || e.Flags == nil {
			t.Errorf("no flags: %s", line)
		}
		i := slices.IndexFunc(odd, func(p segments) bool { return slices.Equal(words(p.flags), e.Flags) })
		if i < 0 {
			t.Fatalf("flags that nobody has sent: %s", line)
		}
		got[odd[i].name]++
	}
	if lines != gained || lines < 4*200 {
		t.Errorf("%d lines, the kernel counts %d invalid packets", lines, gained)
	}
	for _, p := range odd {
		if n := nftCounter(t, r.R, p.name); got[p.name] != n || n == 0 {
			t.Errorf("%s: %d lines, nft counts %d", p.name, got[p.name], n)
		}
	}
	t.Logf("%d invalid packets: %v", gained, got)
}

// words are the names of flags in the order of their bits.
func words(f event.TCPFlags) []string {
	out := []string{}
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"} {
		if f>>i&1 != 0 {
			out = append(out, name)
		}
	}
	return out
}

// kernelInvalid is what conntrack -S adds up to.
func kernelInvalid(t *testing.T, r *netlab.Router) uint64 {
	t.Helper()
	n, found := uint64(0), false
	for line := range strings.Lines(run(t, r, "conntrack", "-S")) {
		for _, f := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(f, ctnl.StatInvalid.String()+"="); ok {
				var x uint64
				_, err := fmt.Sscan(v, &x)
				must(t, err)
				n, found = n+x, true
			}
		}
	}
	if !found {
		t.Fatal("conntrack -S tells no invalid packets")
	}
	return n
}

// The same through the detectors: half of the ports are tried by an Xmas scan, half
// by a Maimon scan, whose first segment is not yet one of many. Their numbers are
// those of nmap.
func TestInvalidScansFound(t *testing.T) {
	nmap, err := exec.LookPath("nmap")
	if err != nil {
		t.Skip("needs nmap, whose scans these are")
	}
	r := router(t, netlab.Options{})
	cmd := exec.CommandContext(t.Context(), "ctsight", "detect", "--invalid", "-o", "json", "--log.level", "debug", fmt.Sprintf("netns %d", r.R.Inode()))
	var out strings.Builder
	cmd.Stdout = &out
	begin(t, cmd, "msg=attached")
	for scan, ports := range map[string]string{"-sX": "1-100", "-sM": "101-200"} {
		_, err := r.A.Run(nmap, scan, "-n", "-Pn", "-T4", "-p"+ports, "--host-timeout", "2m", netlab.ServerV4.String())
		must(t, err)
	}
	must(t, r.Drain())
	must(t, cmd.Process.Signal(syscall.SIGINT))
	must(t, cmd.Wait())
	type finding struct {
		Class, Shape, State, Source, Why string
		Target                           struct{ Addr string }
		Spoofable                        bool
		Evidence                         struct {
			Contacts, Invalid uint64
			Used              []string
		}
	}
	var last finding
	for line := range strings.Lines(out.String()) {
		last = finding{}
		must(t, json.Unmarshal([]byte(line), &last))
		if last.Class != "scan" || last.Source != netlab.ClientV4.String() {
			t.Errorf("%s", line)
		}
	}
	if last.State != "confirmed" || last.Shape != "vertical" || last.Target.Addr != netlab.ServerV4.String() || !last.Spoofable ||
		last.Evidence.Invalid != 199 || last.Evidence.Contacts != 199 || !slices.Equal(last.Evidence.Used, []string{"invalid"}) {
		t.Errorf("%+v", last)
	}
	t.Log(last.Why)
}
