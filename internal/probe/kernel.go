package probe

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf/btf"
)

// Kernel is what the running kernel says of itself: the addresses of its
// symbols and its types. To read them takes some tens of milliseconds, so they
// are kept until modules come or go. Probes may share one, also one after the
// other. The zero value is ready to use.
type Kernel struct {
	mu    sync.Mutex
	as    string // the modules for which the rest holds
	syms  *symbols
	types *btf.Cache
}

// look returns symbols and types as of now. With errHidden the symbols have no
// addresses; with another error they are nil, and the types are there anyway.
func (k *Kernel) look() (*symbols, *btf.Cache, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	as := moduleState()
	if k.types == nil || as != k.as {
		k.as, k.syms, k.types = as, nil, btf.NewCache()
	}
	if k.syms != nil {
		return k.syms, k.types, nil
	}
	s, err := readSymbols()
	if err == nil {
		k.syms = s
	}
	return s, k.types, err
}

// moduleState differs whenever addresses or types of modules may: it holds
// name, size, state and address of each, and not how often it is used.
func moduleState() string {
	data, err := os.ReadFile("/proc/modules")
	if err != nil {
		return "" // no modules at all: everything is built in
	}
	var b bytes.Buffer
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); len(f) >= 6 {
			fmt.Fprintf(&b, "%s %s %s %s\n", f[0], f[1], f[4], f[5])
		}
	}
	fmt.Fprint(&b, moduleLoads())
	return b.String()
}
