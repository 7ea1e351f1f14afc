package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A task is a package and which of its top-level tests run: all, only some, or all but some.
type task struct {
	pkg
	only, but []string
}

// tasksOf makes whole packages to tasks.
func tasksOf(pkgs []pkg) []task {
	var out []task
	for _, p := range pkgs {
		out = append(out, task{pkg: p})
	}
	return out
}

const skipFlag = "-test.skip="

// args returns the flags of the test binary. Of a flag that is given twice the last counts.
func (t task) args(given []string) []string {
	out := slices.Clone(given)
	if len(t.only) > 0 {
		out = append(out, "-test.run="+exactly(t.only))
	}
	if len(t.but) > 0 {
		skip := exactly(t.but)
		for _, a := range given {
			if s, ok := strings.CutPrefix(a, skipFlag); ok {
				skip = s + "|" + exactly(t.but)
			}
		}
		out = append(out, skipFlag+skip)
	}
	return out
}

// exactly is an expression for top-level tests of these names, subtests included.
func exactly(tests []string) string {
	var quoted []string
	for _, t := range tests {
		quoted = append(quoted, regexp.QuoteMeta(t))
	}
	return "^(" + strings.Join(quoted, "|") + ")$"
}

// String is the package and what of it runs.
func (t task) String() string {
	switch {
	case len(t.only) > 0:
		return t.name() + " " + strings.Join(t.only, " ")
	case len(t.but) > 0:
		return fmt.Sprintf("%s but for %d tests that have had their end", t.name(), len(t.but))
	}
	return t.name()
}

// again says what has to run once more after a failure, and what is settled: the tests that
// had failed if they ran to the end, those without an end if they did not, and everything if
// no test is to blame. code is -1 of a guest that died.
func (p *pkgReport) again(of task, code int) (task, tally) {
	switch {
	case code == 1 && len(p.bad) > 0:
		return task{pkg: of.pkg, only: p.bad}, p.settled
	case code != 1 && (len(p.bad) > 0 || p.running):
		return task{pkg: of.pkg, but: p.ended}, p.settled
	}
	return of, tally{}
}
