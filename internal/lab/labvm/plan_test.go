package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// Whatever the packages, each runs once on each kernel, what takes long in a guest of its own
// and first.
func TestPlan(t *testing.T) {
	var pkgs []pkg
	for _, name := range []string{"internal/ctnl", "internal/new", "internal/probe", "internal/lab/scenario", "internal/pipeline", "cmd/ctsight"} {
		pkgs = append(pkgs, pkg{ImportPath: module + "/" + name})
	}
	kernels := vm.Kernels()[:2]
	var got []string
	for _, g := range plan(kernels, tasksOf(pkgs)) {
		var names []string
		for _, p := range g.tasks {
			names = append(names, p.name())
		}
		got = append(got, fmt.Sprintf("%s: %s", g.kernel.Name, strings.Join(names, " ")))
	}
	want := []string{
		"5.10: internal/lab/scenario", "6.1: internal/lab/scenario",
		"5.10: internal/probe internal/ctnl internal/new", "6.1: internal/probe internal/ctnl internal/new",
		"5.10: internal/pipeline cmd/ctsight", "6.1: internal/pipeline cmd/ctsight",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if all := plan(kernels, nil); len(all) != 0 {
		t.Errorf("nothing to run, and %v", all)
	}
}
