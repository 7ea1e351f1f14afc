package main

import (
	"cmp"
	"runtime"
	"slices"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// A guest is one boot: a kernel and what runs on it.
type guest struct {
	kernel vm.Kernel
	tasks  []task
}

// takes is about how many seconds the tests of a package take in an emulated machine, where
// that is long. Nothing but the order of things depends on it.
var takes = map[string]int{
	"internal/lab/capacity": 720,
	"internal/lab/scenario": 560,
	"internal/pipeline":     400,
	"internal/lab/scan":     350,
	"cmd/ctsight":           350,
	"internal/probe":        280,
	"internal/feed":         45,
	"internal/ctnl":         30,
	"internal/demo":         30,
	"internal/sandbox":      25,
	"internal/netlab":       20,
	"internal/relief":       15,
}

// waits are the packages whose tests wait for the kernel nearly all the time: they have a
// guest to themselves, beside those that keep the CPUs busy.
var waits = []string{"internal/lab/capacity"}

func (t task) waits() bool { return slices.Contains(waits, t.name()) }

// waits says whether that is all there is to do in the guest.
func (g *guest) waits() bool { return g.tasks[0].waits() }

// guestsAtATime keeps all CPUs of this machine busy: a guest keeps one busy two thirds of the
// time, and waits for the other third.
func guestsAtATime() int { return (3*runtime.NumCPU() + 1) / 2 }

// seconds is how long tasks take together.
func seconds(tasks []task) (n int) {
	for _, t := range tasks {
		n += max(takes[t.name()], 5)
	}
	return n
}

// plan divides the packages among guests of each kernel, so that none takes longer than it
// must, and puts those that take longest first: the last to end has little left to do.
func plan(kernels []vm.Kernel, tasks []task) []guest {
	byLength := func(a, b task) int { return seconds([]task{b}) - seconds([]task{a}) }
	var parts [][]task
	for _, t := range slices.SortedStableFunc(slices.Values(tasks), byLength) {
		i := slices.IndexFunc(parts, func(p []task) bool {
			return !t.waits() && !p[0].waits() && seconds(append(p, t)) <= seconds(parts[0])
		})
		if i < 0 {
			parts, i = append(parts, nil), len(parts)
		}
		parts[i] = append(parts[i], t)
	}
	slices.SortStableFunc(parts, func(a, b []task) int { return cmp.Compare(seconds(b), seconds(a)) })
	var all []guest
	for _, p := range parts {
		for _, k := range kernels {
			all = append(all, guest{k, p})
		}
	}
	return all
}
