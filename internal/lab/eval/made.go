package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/lab/eval/capture"
	"github.com/ctsight/ctsight/internal/lab/eval/synth"
)

// made is a scenario with what was told of it.
type made struct {
	*synth.Scenario
	told     []told
	verdicts []verdict
	checked  checked
	err      error
}

// makeAll runs scenarios, two at a time: a capture may be some hundred megabytes.
func makeAll(all []synth.Scenario) ([]made, error) {
	out := make([]made, len(all))
	var wg sync.WaitGroup
	places := make(chan struct{}, 2)
	for i := range all {
		wg.Add(1)
		places <- struct{}{}
		go func() {
			defer func() { <-places; wg.Done() }()
			out[i].Scenario = &all[i]
			out[i].run()
		}()
	}
	wg.Wait()
	for i := range out {
		if out[i].err != nil {
			return nil, fmt.Errorf("%s: %w", out[i].Name, out[i].err)
		}
	}
	return out, nil
}

// makeOnce runs all scenarios, the first time that it is called.
func makeOnce() (scans, benign []made, err error) {
	all, err := allMade()
	n := len(synth.Scans())
	if err != nil {
		return nil, nil, err
	}
	return all[:n], all[n:], nil
}

var allMade = sync.OnceValues(func() ([]made, error) { return makeAll(append(synth.Scans(), synth.Benign()...)) })

func (m *made) run() {
	c := m.Make()
	if m.told, m.err = ours(&c); m.err == nil {
		m.verdicts, m.checked = verdicts(&c, m.told), check(&c, m.told)
	}
}

// found is how many scanners there are, and when they were found.
func (m *made) found() (scanners int, suspect, confirmed []*delay) {
	if m.Want != "scan" && m.Want != "" {
		first := firstOf(m.Want, m.told)
		return 1, first, first
	}
	for _, v := range m.verdicts {
		if v.Role == capture.Scanner {
			scanners++
			suspect, confirmed = append(suspect, v.suspect), append(confirmed, v.confirmed)
		}
	}
	return scanners, suspect, confirmed
}

// flagged is how many of the others were called scanners, and how many of these were
// cleared.
func (m *made) flagged() (n, cleared int) {
	for _, v := range m.verdicts {
		if v.Role != capture.Scanner && v.Role != capture.Below && (v.confirmed != nil || v.network) {
			if n++; v.cleared && !v.network {
				cleared++
			}
		}
	}
	return n, cleared
}

// madeScans is the table of the scans that we made: what was found, how late, and how
// late the theory has it.
func madeScans(p *page, all []made) {
	var rows [][]string
	for i := range all {
		m := &all[i]
		n, suspect, confirmed := m.found()
		first, _, ns := middle(suspect)
		sure, worst, nc := middle(confirmed)
		wrong, _ := m.flagged()
		row := []string{m.Name, number(n), number(ns), number(nc), "-", "-", "-", "-", number(wrong)}
		if ns > 0 {
			row[4] = first.String()
		}
		if m.Probes > 0 {
			row[5] = fmt.Sprintf("%s, %.0f", brief(time.Duration((m.Probes-1)*float64(m.Step))), m.Probes)
		}
		if nc > 0 {
			row[6], row[7] = sure.String(), worst.String()
		}
		rows = append(rows, row)
	}
	p.table([]string{"scan", "scanners", "suspect", "confirmed", "until suspect", "in theory", "until confirmed", "at worst", "benign flagged"}, rows)
}

// firstOf is when a class was first confirmed, none if it was not.
func firstOf(class string, all []told) []*delay {
	for i := range all {
		if all[i].Class == class && all[i].listed() {
			return []*delay{{took: all[i].at.Sub(0)}}
		}
	}
	return nil
}

// madeBenign is the table of what must not be called a scan.
func madeBenign(p *page, all []made) {
	var rows [][]string
	quiet, taken := 0, 0
	for i := range all {
		m := &all[i]
		suspect := 0
		for _, v := range m.verdicts {
			if v.suspect != nil {
				suspect++
			}
		}
		flagged, cleared := m.flagged()
		switch flagged {
		case 0:
			quiet++
		case cleared:
			taken++
		}
		row := []string{m.Name, number(len(m.verdicts)), number(suspect), bold(flagged), number(cleared), bold(m.others()), toldOf(m.told)}
		rows = append(rows, row)
	}
	p.say("Of %d such captures %d have nobody flagged; in %d of the others it was taken back.", len(all), quiet, taken)
	p.table([]string{"what", "sources", "suspect", "flagged", "of these cleared", "other alarms", "all that was told"}, rows)
}

// others is how many findings of other classes than scans lists and pagers got, those
// left out that the scenario is about.
func (m *made) others() int {
	ids := map[string]bool{}
	for i := range m.told {
		if t := &m.told[i]; t.listed() && t.Class != "scan" && t.Class != m.Want {
			ids[t.ID] = true
		}
	}
	return len(ids)
}

func bold(n int) string {
	if n == 0 {
		return "0"
	}
	return "**" + number(n) + "**"
}

// toldOf lists the classes and states that were told, with when they were first.
func toldOf(all []told) string {
	var order []string
	ids, first := map[string]map[string]bool{}, map[string]*told{}
	for i := range all {
		t := &all[i]
		k := t.Class + " " + t.State
		if ids[k] == nil {
			ids[k], first[k] = map[string]bool{}, t
			order = append(order, k)
		}
		ids[k][t.ID] = true
	}
	slices.Sort(order)
	var out []string
	for _, k := range order {
		out = append(out, fmt.Sprintf("%s (%s) %d, first after %s", k, first[k].Severity, len(ids[k]), brief(first[k].at.Sub(0))))
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, "; ")
}
