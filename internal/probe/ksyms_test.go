package probe

import (
	"maps"
	"os"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
)

// A module that is coming or going cannot be attached to: it must not count as
// seen, or nobody would look again when it is there.
func TestModulesThatAreThere(t *testing.T) {
	got := parseModules([]byte(`nf_nat 61440 2 nft_chain_nat,nft_masq, Live 0xffffffffc0a00000
nf_conntrack_netlink 57344 0 - Loading 0xffffffffc0b00000
nf_conntrack 188416 1 nf_nat, Live 0xffffffffc0900000 (E)
nf_tables 1 1 - Unloading 0xffffffffc0c00000
veth 45056 0 - Live 0xffffffffc0d00000
short line
`))
	want := map[string][2]uint64{
		"nf_nat": {0xffffffffc0a00000, 0xffffffffc0a00000 + 61440}, "nf_conntrack": {0xffffffffc0900000, 0xffffffffc0900000 + 188416},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %#x, want %#x", got, want)
	}
}

func TestSymbols(t *testing.T) {
	want := map[string]bool{"a": true, "b": true, "pcpu_hot": true}
	s := &symbols{addr: map[string]uint64{}, in: map[string]string{}}
	for _, line := range []string{
		"ffffffff81000000 T a", "ffffffff81000100 t other", "ffffffffc0900000 t b\t[nf_conntrack]", "ffffffff82000000 D pcpu_hot",
		"ffffffffc0a00000 t b\t[nf_nat]", "ffffffff82000008 d not_wanted", "nonsense", "", "zz T a",
	} {
		s.add([]byte(line), want)
	}
	if s.addr["a"] != 0xffffffff81000000 || s.addr["b"] != 0xffffffffc0900000 || s.addr["pcpu_hot"] != 0xffffffff82000000 || len(s.addr) != 3 {
		t.Errorf("addresses %#x", s.addr)
	}
	if s.in["b"] != "nf_conntrack" || s.in["a"] != "" {
		t.Errorf("modules %q", s.in)
	}
	if got := s.fn("a"); got != [2]uint64{0xffffffff81000000, 0xffffffff81000100} {
		t.Errorf("a is %#x", got)
	}
	if got := s.fn("gone"); got != [2]uint64{} {
		t.Errorf("an unknown function is %#x", got)
	}
}

// The running kernel's own symbols, where it shows them.
func TestReadSymbols(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: addresses are hidden from others")
	}
	s, err := readSymbols()
	if err != nil {
		t.Skipf("addresses are hidden: %v", err)
	}
	r := s.fn("nf_hook_slow")
	if r[0] == 0 || r[1] <= r[0] || r[1]-r[0] > 1<<16 {
		t.Errorf("nf_hook_slow from %#x to %#x", r[0], r[1])
	}
	if data := s.addr["__per_cpu_offset"] != 0 && s.addr["__preempt_count"]|s.addr["pcpu_hot"] != 0; !data && lab.InVM() {
		t.Error("no address of the preemption count: softirqs cannot be told from tasks")
	} else if !data {
		t.Log("this kernel hides its data symbols (CONFIG_KALLSYMS_ALL): softirqs cannot be told from tasks")
	}
	names := NewNames()
	if got := names.Symbol(r[0] + 1); got != "nf_hook_slow+0x1" {
		t.Errorf("the name of its second byte is %q", got)
	}
	if got := names.Symbol(1); got != "" {
		t.Errorf("address 1 is called %q", got)
	}
}
