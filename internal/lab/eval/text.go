package main

import (
	"fmt"
	"strings"
	"time"
)

// page collects the text of the document.
type page struct{ strings.Builder }

func (p *page) say(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// table writes a table of Markdown.
func (p *page) table(head []string, rows [][]string) {
	p.say("\n| %s |", strings.Join(head, " | "))
	p.say("|%s", strings.Repeat("---|", len(head)))
	for _, r := range rows {
		p.say("| %s |", strings.Join(r, " | "))
	}
	p.say("")
}

// share is a part of a whole as a number from 0 to 1, "-" for none of nothing.
func share(n, of int) string {
	if of == 0 {
		return "-"
	}
	if n == of {
		return "1"
	}
	return strings.TrimPrefix(fmt.Sprintf("%.2f", float64(n)/float64(of)), "0")
}

// brief is a time with two digits or so.
func brief(d time.Duration) string {
	switch {
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	case d >= 10*time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.3f s", d.Seconds())
}

// each is a delay as a time and first contacts.
func (d *delay) String() string {
	if d == nil {
		return "-"
	}
	return fmt.Sprintf("%s, %d", brief(d.took), d.probes)
}

func number(n int) string {
	if n == 0 {
		return "0"
	}
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
