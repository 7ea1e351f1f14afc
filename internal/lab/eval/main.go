// Command eval says how well scans are found: it runs what is known of the public
// captures, and captures that it makes itself, through the detectors of ctsight and
// through those that others use, and writes docs/evaluation.md. The same captures give
// the same bytes. It is `make eval`.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"

	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

func main() {
	out := flag.String("o", "docs/evaluation.md", "the file to write")
	word := flag.String("show", "", "write nothing, but print what is told of captures with this in their name")
	flag.Parse()
	run := func() error { return write(*out) }
	if *word != "" {
		run = func() error { return show(os.Stdout, *word) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "eval:", err)
		os.Exit(1)
	}
}

func write(path string) error {
	text, err := document()
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// document is docs/evaluation.md.
func document() (string, error) {
	replays, err := capture.Public()
	if err != nil {
		return "", err
	}
	packets, err := capture.Packets()
	if err != nil {
		return "", err
	}
	public, err := evaluateAll(replays)
	if err != nil {
		return "", err
	}
	converted, err := evaluateAll(packets)
	if err != nil {
		return "", err
	}
	var p page
	p.say("%s", introduction)
	compare(&p, public)
	p.say("%s\n", aboutOthers)
	p.say("%s", aboutClasses)
	classes(&p, public)
	p.say("%s", aboutEvents)
	for i := range public {
		if public[i].Name == "westermo-right" {
			if err := events(&p, &public[i]); err != nil {
				return "", err
			}
		}
	}
	p.say("%s", aboutPackets)
	compare(&p, converted)
	classes(&p, converted)
	scans, benign, err := makeOnce()
	if err != nil {
		return "", err
	}
	p.say("%s", aboutMade)
	madeScans(&p, scans)
	p.say("%s", aboutBenign)
	madeBenign(&p, benign)
	p.say("%s", aboutCounts)
	counts(&p, slices.Concat(public, converted), slices.Concat(scans, benign))
	return p.String(), nil
}
