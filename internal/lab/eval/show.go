package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/ctsight/ctsight/internal/lab/eval/capture"
	"github.com/ctsight/ctsight/internal/lab/eval/synth"
)

// show prints what is told of the captures with a word in their name, each time it is.
func show(w io.Writer, word string) error {
	for _, s := range append(synth.Scans(), synth.Benign()...) {
		if strings.Contains(s.Name, word) {
			c := s.Make()
			if err := showOne(w, &c); err != nil {
				return err
			}
		}
	}
	for _, read := range []func() ([]capture.Capture, error){capture.Public, capture.Packets} {
		all, err := read()
		if err != nil {
			return err
		}
		for i := range all {
			if strings.Contains(all[i].Name, word) {
				if err := showOne(w, &all[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func showOne(w io.Writer, c *capture.Capture) error {
	all, err := ours(c)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s: %d lines, %d sources, %s\n", c.Name, len(c.Lines), len(c.Sources), brief(c.Length()))
	for i := range all {
		t := &all[i]
		fmt.Fprintf(w, "%12s  %s %s %s %s %s spoofable=%v: %s [%.1f of %.1f] not benign: %s\n", brief(t.at.Sub(0)), t.ID, t.Class, t.State, t.Severity,
			t.Source, t.Spoofable, t.Why, t.Statistic, t.Threshold, t.WhyNotBenign)
	}
	return nil
}
