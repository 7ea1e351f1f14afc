package probe

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// Names gives names to numbers of the running kernel: drop reasons, from its
// BTF, and text addresses, from kallsyms. Each table is read at its first use.
type Names struct {
	reasons func() map[uint32]string
	symbols func() []symbolAt
}

type symbolAt struct {
	addr uint64
	name string
}

// NewNames reads nothing yet.
func NewNames() *Names {
	return &Names{reasons: sync.OnceValue(readReasons), symbols: sync.OnceValue(readText)}
}

// KfreeReason returns the name of an enum skb_drop_reason, lower case and
// without its prefix; "" when the kernel has none for it.
func (n *Names) KfreeReason(r uint32) string { return n.reasons()[r] }

// Symbol returns symbol+0xoffset for a text address, "" when it is unknown.
func (n *Names) Symbol(addr uint64) string {
	s := n.symbols()
	i, ok := slices.BinarySearchFunc(s, addr, func(a symbolAt, x uint64) int { return cmp.Compare(a.addr, x) })
	if !ok {
		i--
	}
	if i < 0 || addr-s[i].addr > 1<<20 {
		return ""
	}
	return fmt.Sprintf("%s+%#x", s[i].name, addr-s[i].addr)
}

func readReasons() map[uint32]string {
	out := map[uint32]string{}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return out
	}
	var e *btf.Enum
	if spec.TypeByName("skb_drop_reason", &e) != nil {
		return out
	}
	for _, v := range e.Values {
		name := bytes.TrimPrefix([]byte(v.Name), []byte("SKB_DROP_REASON_"))
		name = bytes.TrimPrefix(name, []byte("SKB_"))
		out[uint32(v.Value)] = string(bytes.ToLower(name))
	}
	return out
}

func readText() []symbolAt {
	data, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return nil
	}
	var out []symbolAt
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 3 || (f[1][0] != 't' && f[1][0] != 'T') {
			continue
		}
		if a, err := strconv.ParseUint(string(f[0]), 16, 64); err == nil && a != 0 {
			out = append(out, symbolAt{a, string(f[2])})
		}
	}
	slices.SortFunc(out, func(a, b symbolAt) int { return cmp.Compare(a.addr, b.addr) })
	return out
}
