package main

import (
	"strings"
	"testing"
)

// A view needs a terminal; without one the error names what to use instead,
// before anything is attached.
func TestTopNeedsTerminal(t *testing.T) {
	oneError(t, runCmd(t, ctsight(t, "top")), exitUsage, "not a terminal: use --once or -o json")
}

func TestTopUsage(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"top --by nobody", "src, dst, edge, prefix, netns"},
		{"top --sort size", "peak_rate_10ms"},
		{"top --top -1", "a number of rows"},
		{"top --once src", "filter, column"},
	} {
		t.Run(c.args, func(t *testing.T) {
			oneError(t, runCmd(t, ctsight(t, strings.Fields(c.args)...)), exitUsage, c.want)
		})
	}
}
