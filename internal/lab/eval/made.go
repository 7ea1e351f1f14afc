package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/lab/eval/capture"
	"github.com/ctsight/ctsight/internal/lab/eval/synth"
)

// madeScans is the table of the scans that we made: what was found, how late, and how
// late the theory has it.
func madeScans(p *page, all []synth.Scenario) error {
	var rows [][]string
	for i := range all {
		s := &all[i]
		c := s.Make()
		told, err := ours(&c)
		if err != nil {
			return err
		}
		rows = append(rows, madeScan(s, &c, told))
	}
	p.table([]string{"scan", "scanners", "suspect", "confirmed", "until suspect", "in theory", "until confirmed", "at worst", "benign flagged"}, rows)
	return nil
}

func madeScan(s *synth.Scenario, c *capture.Capture, all []told) []string {
	var suspect, confirmed []*delay
	n, wrong := 0, 0
	for _, v := range verdicts(c, all) {
		switch {
		case v.Role == capture.Scanner:
			n++
			suspect, confirmed = append(suspect, v.suspect), append(confirmed, v.confirmed)
		case v.Role == capture.Benign && (v.confirmed != nil || v.network):
			wrong++
		}
	}
	if s.Want != "scan" {
		n = 1
		suspect, confirmed = firstOf(s.Want, all), firstOf(s.Want, all)
	}
	m, _, ns := middle(suspect)
	k, worst, nc := middle(confirmed)
	row := []string{s.Name, number(n), number(ns), number(nc), "-", "-", "-", "-", number(wrong)}
	if ns > 0 {
		row[4] = m.String()
	}
	if s.Probes > 0 {
		row[5] = fmt.Sprintf("%s, %.0f", brief(time.Duration((s.Probes-1)*float64(s.Step))), s.Probes)
	}
	if nc > 0 {
		row[6], row[7] = k.String(), worst.String()
	}
	return row
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
func madeBenign(p *page, all []synth.Scenario) error {
	var rows [][]string
	for i := range all {
		c := all[i].Make()
		told, err := ours(&c)
		if err != nil {
			return err
		}
		rows = append(rows, benign(&c, told))
	}
	p.table([]string{"what", "sources", "suspect", "flagged", "of these cleared", "all that was told"}, rows)
	return nil
}

func benign(c *capture.Capture, all []told) []string {
	suspect, flagged, cleared := 0, 0, 0
	for _, v := range verdicts(c, all) {
		if v.suspect != nil {
			suspect++
		}
		if v.confirmed != nil || v.network {
			flagged++
			if v.cleared && !v.network {
				cleared++
			}
		}
	}
	row := []string{c.Name, number(len(c.Sources)), number(suspect), number(flagged), number(cleared), toldOf(all)}
	if flagged > 0 {
		row[3] = "**" + row[3] + "**"
	}
	return row
}

// toldOf lists the classes and states that were told, with when they were first.
func toldOf(all []told) string {
	var out []string
	seen := map[string]bool{}
	n := map[string]map[string]bool{}
	for i := range all {
		t := &all[i]
		k := t.Class + " " + t.State
		if n[k] == nil {
			n[k] = map[string]bool{}
		}
		n[k][t.ID] = true
	}
	for i := range all {
		t := &all[i]
		if k := t.Class + " " + t.State; !seen[k] {
			seen[k] = true
			out = append(out, fmt.Sprintf("%s (%s) %d, first after %s", k, t.Severity, len(n[k]), brief(t.at.Sub(0))))
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	slices.SortStableFunc(out, strings.Compare)
	return strings.Join(out, "; ")
}
