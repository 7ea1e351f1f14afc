// Package feed gives findings to others: to files in the forms that collectors read,
// to a NATS JetStream, as a block list, and into a table of nftables that is ours alone.
//
//	Found -> queue of an outlet -> sink          what is told, each finding as it comes
//	Findings + Policy -> List -> HTTP, nftables  what may be blocked now
//
// A list is made anew from the findings that are open, so that nothing can be forgotten
// in it. Nobody who tells a finding ever waits: a queue has a bound, and what had no room is
// counted. What is a finding is for the package detect, what a file says for config.
package feed

import (
	"fmt"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// Telling is a finding as it was told, and why no block list takes it.
type Telling struct {
	*agg.Finding
	Unlisted string // "" when one may
}

// Format appends a telling as one line, with its newline.
type Format func(b []byte, t Telling) ([]byte, error)

// Formats are the words of --feed-format.
var Formats = []string{"json", "eve", "ecs", "plain"}

// Options of what is written.
type Options struct {
	Names view.Names
	Host  string // name of this host
}

// NewFormat returns the form called name, one of Formats.
func NewFormat(name string, o Options) (Format, error) {
	f := former{o}
	switch name {
	case "json":
		return f.json, nil
	case "eve":
		return f.eve, nil
	case "ecs":
		return f.ecs, nil
	case "plain":
		return f.plain, nil
	}
	return nil, fmt.Errorf("no feed format %q: one of %v", name, Formats)
}

// former has the forms.
type former struct{ o Options }

func millis(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
