package view

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// The name that came with the numbers of a table is shown, unless a runtime made it
// up and the host knows whose it is.
func TestTableNames(t *testing.T) {
	names := Names{
		NetNS:     func(ns event.NetNS) string { return map[event.NetNS]string{1: "default/web-0", 2: "later"}[ns] },
		Generated: func(name string) bool { return strings.HasPrefix(name, "cni-") },
	}
	for _, tc := range []struct {
		ns         event.NetNS
		came, want string
	}{{1, "cni-x", "default/web-0"}, {1, "", "default/web-0"}, {2, "edge", "edge"}, {3, "cni-x", "cni-x"}, {3, "", ""}} {
		if got := names.table(tc.ns, tc.came); got != tc.want {
			t.Errorf("%d %q: %q, want %q", tc.ns, tc.came, got, tc.want)
		}
	}
	ledger := &agg.Doc{Kernel: []agg.KernelDelta{{NetNS: 1, Name: "cni-x"}}}
	top := &agg.TopDoc{Table: []agg.TableState{{NetNS: 1, Name: "cni-x", Entries: 1, Max: 2}}, Pools: []agg.PoolState{{Pool: agg.Pool{Key: agg.Key{NetNS: 1}}, Name: "cni-x"}}}
	var text, json, topJSON bytes.Buffer
	for what, err := range map[string]error{
		"drops":         WriteLedgerText(&text, ledger, LedgerOptions{Names: names}),
		"drops -o json": WriteLedgerJSON(&json, ledger, LedgerOptions{Names: names}),
		"top -o json":   WriteTopJSON(&topJSON, top, TopOptions{Names: names}),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, out := range map[string]string{"drops": text.String(), "drops -o json": json.String(), "top -o json": topJSON.String(), "top": TopScreen(top, ScreenOptions{Names: names})} {
		if strings.Contains(out, "cni-x") || !strings.Contains(out, "default/web-0") {
			t.Errorf("%s:\n%s", what, out)
		}
	}
}
