package ctnl

import (
	"os"
	"strings"
	"testing"
)

// go.mod lists every module of the build with the version it resolves to, so
// a dependency that raises a pin shows there too.
func TestPins(t *testing.T) {
	b, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for module, pin := range map[string]struct{ version, why string }{
		"github.com/mdlayher/netlink": {"v1.9.0", "from v1.10 on, Get and StatsGlobal of ti-mo/conntrack never return: replies with NLM_F_MULTI and no NLMSG_DONE"},
		"github.com/ti-mo/conntrack":  {"v0.6.0", "@latest can fail, and this is the version that was studied"},
	} {
		var got []string
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
			if len(f) > 1 && f[0] == module {
				got = append(got, f[1])
			}
			if strings.HasPrefix(strings.TrimSpace(line), "replace") && strings.Contains(line, module) {
				t.Errorf("%s is replaced: %s", module, line)
			}
		}
		if len(got) != 1 || got[0] != pin.version {
			t.Errorf("%s is %v in go.mod, pinned to %s: %s", module, got, pin.version, pin.why)
		}
	}
}
