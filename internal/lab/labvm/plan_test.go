package main

import (
	"slices"
	"testing"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// Whatever the packages, each runs once on each kernel, what takes longest first, and
// no guest takes longer than a package must.
func TestPlan(t *testing.T) {
	var pkgs []pkg
	for _, name := range []string{"internal/ctnl", "internal/new", "internal/probe", "internal/lab/scenario", "internal/lab/capacity", "internal/pipeline", "cmd/ctsight"} {
		pkgs = append(pkgs, pkg{ImportPath: module + "/" + name})
	}
	kernels := vm.Kernels()[:2]
	all := plan(kernels, tasksOf(pkgs))
	ran, last, longest := map[string][]string{}, 1<<30, max(takes["internal/lab/scenario"], takes["internal/lab/capacity"])
	for _, g := range all {
		if g.waits() && len(g.tasks) != 1 {
			t.Errorf("%v beside what waits", g.tasks)
		}
		n := seconds(g.tasks)
		if n > last || n > longest {
			t.Errorf("%v takes %d, after %d and at most %d", g.tasks, n, last, longest)
		}
		last = n
		for _, p := range g.tasks {
			ran[p.name()] = append(ran[p.name()], g.kernel.Name)
		}
	}
	for _, p := range pkgs {
		if got := ran[p.name()]; !slices.Equal(got, []string{"5.10", "6.1"}) {
			t.Errorf("%s runs on %v", p.name(), got)
		}
	}
	if len(all) >= len(kernels)*len(pkgs) {
		t.Errorf("%d guests: short packages do not share", len(all))
	}
	if all := plan(kernels, nil); len(all) != 0 {
		t.Errorf("nothing to run, and %v", all)
	}
}
