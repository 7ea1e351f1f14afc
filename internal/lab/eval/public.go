package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// result is a capture with what was made of it.
type result struct {
	*capture.Capture
	told     []told
	verdicts []verdict
	scores   []score // ours first
	checked  checked
}

func evaluate(c *capture.Capture) (r result, err error) {
	r.Capture = c
	if r.told, err = ours(c); err != nil {
		return r, err
	}
	r.verdicts, r.checked = verdicts(c, r.told), check(c, r.told)
	r.scores = append([]score{ourScore(r.verdicts)}, baselines(c)...)
	return r, nil
}

func evaluateAll(cs []capture.Capture) (out []result, err error) {
	for i := range cs {
		r, err := evaluate(&cs[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cs[i].Name, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// cell is a score in the table: recall, then what was wrong.
func (r *result) cell(s *score) string {
	var parts []string
	if r.Count(capture.Scanner, tiers[0]) > 0 {
		var recall []string
		for i, n := range tiers {
			recall = append(recall, share(s.hit[i], r.Count(capture.Scanner, n)))
		}
		parts = append(parts, strings.Join(recall, "/"))
	}
	if s.sources > 0 || len(parts) == 0 {
		parts = append(parts, fmt.Sprint(s.sources))
	}
	if s.benign+s.other > 0 {
		parts = append(parts, fmt.Sprintf("**%d wrong**", s.benign+s.other))
	}
	return strings.Join(parts, ", ")
}

// compare is the table of ours beside the others.
func compare(p *page, all []result) {
	head := []string{"capture", "days, sources", "scanners"}
	for _, s := range all[0].scores {
		head = append(head, s.name)
	}
	var rows [][]string
	for i := range all {
		r := &all[i]
		row := []string{r.Name, fmt.Sprintf("%.2f, %s", r.Length().Hours()/24, number(len(r.Sources))),
			fmt.Sprintf("%d/%d/%d", r.Count(capture.Scanner, tiers[0]), r.Count(capture.Scanner, tiers[1]), r.Count(capture.Scanner, tiers[2]))}
		for k := range r.scores {
			row = append(row, r.cell(&r.scores[k]))
		}
		rows = append(rows, row)
	}
	p.table(head, append(rows, totals(all)))
}

// maxDays: a capture that has years in it was made of pieces.
const maxDays = 7

// totals is the last row: recall, precision, false alarms per day and 1,000 sources.
func totals(all []result) []string {
	row := []string{"all", "", ""}
	days := 0.0 // of benign sources
	var want [len(tiers)]int
	for i := range all {
		r := &all[i]
		days += min(maxDays, r.Length().Hours()/24) * float64(r.Count(capture.Benign, 0)+r.Count(capture.Other, 0))
		for t, n := range tiers {
			want[t] += r.Count(capture.Scanner, n)
		}
	}
	row[1], row[2] = fmt.Sprintf("%.1f benign source-days", days), fmt.Sprintf("%d/%d/%d", want[0], want[1], want[2])
	for k := range all[0].scores {
		var hit [len(tiers)]int
		wrong := 0
		for i := range all {
			s := &all[i].scores[k]
			for t := range tiers {
				hit[t] += s.hit[t]
			}
			wrong += s.benign + s.other
		}
		row = append(row, fmt.Sprintf("%s/%s/%s; precision %s; %d wrong, %.0f per day and 1,000", share(hit[0], want[0]), share(hit[1], want[1]),
			share(hit[2], want[2]), share(hit[0], hit[0]+wrong), wrong, 1000*float64(wrong)/days))
	}
	return row
}

// classes is the table of ours by class of source.
func classes(p *page, all []result) {
	var rows [][]string
	for i := range all {
		r := &all[i]
		for _, class := range r.classes() {
			rows = append(rows, r.class(class))
		}
	}
	p.table([]string{"capture", "class", "sources", "suspect", "confirmed", "until suspect", "until confirmed", "at worst", "alarms each", "all that was told of them"}, rows)
}

func (r *result) classes() (out []string) {
	for i := range r.Sources {
		if !slices.Contains(out, r.Sources[i].Class) {
			out = append(out, r.Sources[i].Class)
		}
	}
	slices.Sort(out)
	return out
}

func (r *result) class(class string) []string {
	var suspect, confirmed []*delay
	told, n, alarms := map[string]int{}, 0, 0
	for i := range r.verdicts {
		v := &r.verdicts[i]
		if v.Class != class {
			continue
		}
		n++
		alarms += v.alarms
		suspect, confirmed = append(suspect, v.suspect), append(confirmed, v.confirmed)
		for _, c := range v.classes {
			told[c]++
		}
		if v.network {
			told["scan of its network"]++
		}
	}
	s, _, ns := middle(suspect)
	m, worst, nc := middle(confirmed)
	row := []string{r.Name, class, number(n), number(ns), number(nc), "-", "-", "-", "-", counted(told)}
	if ns > 0 {
		row[5] = s.String()
	}
	if nc > 0 {
		row[6], row[7], row[8] = m.String(), worst.String(), fmt.Sprintf("%.2g", float64(alarms)/float64(nc))
	}
	return row
}

// counted lists words with how often they came.
func counted(n map[string]int) string {
	var out []string
	for w, k := range n {
		out = append(out, fmt.Sprintf("%s %d", w, k))
	}
	if slices.Sort(out); len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// events is the table of the scans that the Westermo log has.
func events(p *page, r *result) error {
	scans, err := capture.Westermo(r.Capture)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, s := range scans {
		tries, first := 0, s.From
		seen := map[string]bool{}
		for i := range r.Lines {
			l := &r.Lines[i]
			e := fmt.Sprint(l.Event.Orig.Dst, l.Event.Orig.Dport, l.Event.Orig.Proto)
			if l.What == 'N' && l.Event.Time >= s.From && l.Event.Time <= s.To && !seen[e] {
				if seen[e] = true; tries == 0 {
					first = l.Event.Time
				}
				tries++
			}
		}
		row := []string{brief(s.From.Sub(0)), s.What, number(tries), "-", "-"}
		for i := range r.told {
			t := &r.told[i]
			if t.Class == "scan" && t.State == agg.Confirmed && t.at >= s.From && t.at <= s.To+event.Ktime(30*time.Second) {
				row[3], row[4] = brief(t.at.Sub(first)), fmt.Sprintf("%s, told for the %s time", t.Shape, ordinal(t, r.told[:i+1]))
				break
			}
		}
		rows = append(rows, row)
	}
	p.table([]string{"at", "what the log says", "endpoints tried here", "told after", "as"}, rows)
	return nil
}

// ordinal is how often a finding was told until now.
func ordinal(t *told, until []told) string {
	n := 0
	for i := range until {
		if until[i].ID == t.ID {
			n++
		}
	}
	switch {
	case n%10 == 1 && n != 11:
		return fmt.Sprintf("%dst", n)
	case n%10 == 2 && n != 12:
		return fmt.Sprintf("%dnd", n)
	case n%10 == 3 && n != 13:
		return fmt.Sprintf("%drd", n)
	}
	return fmt.Sprintf("%dth", n)
}
