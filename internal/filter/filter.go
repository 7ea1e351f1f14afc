// Package filter is the FILTER language of the command line: which events a
// command looks at. It uses the words of conntrack(8) and the operators of
// tcpdump:
//
//	src 10.0.0.0/8 and dport 53
//	not proto udp and (reason table_full or cause early_drop)
//	netns 4026531840 drop
//
// A Filter matches events in user space; Kernel gives the part of it that a BPF
// program can check before it sends a record. The package knows nothing of BPF.
package filter

import (
	"slices"

	"github.com/ctsight/ctsight/internal/event"
)

// Options are what a filter needs to know of this host.
type Options struct {
	// NetNS returns the network namespace of a name. Without it only inode
	// numbers are understood.
	NetNS func(name string) (event.NetNS, bool)
}

// Filter says which events match. The nil Filter matches all. It is never
// changed after Parse and may be used by many goroutines.
type Filter struct {
	root *node // nil matches all
}

// Parse reads a filter. The empty string matches all. A mistake is a
// *SyntaxError, which names the column.
func Parse(s string, o Options) (*Filter, error) {
	toks, err := lex(s)
	if err != nil {
		return nil, err
	}
	p := parser{toks: toks, opts: o}
	if p.peek().kind == tokEnd {
		return &Filter{}, nil
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != tokEnd {
		return nil, p.unexpected(t, `"and", "or" or the end`)
	}
	return &Filter{root: n}, nil
}

// All says whether the filter was empty and so matches every event.
func (f *Filter) All() bool { return f == nil || f.root == nil }

// Match says whether the event passes. It does not allocate.
func (f *Filter) Match(e *event.Event) bool { return f.All() || f.root.match(e) }

// String returns the filter in its canonical form, which Parse reads back to
// the same filter. Names of network namespaces have become inode numbers.
func (f *Filter) String() string {
	if f.All() {
		return ""
	}
	return string(f.root.append(nil, 0))
}

// Fields returns the fields that the filter looks at, by their canonical words,
// each once, in the order of the text.
func (f *Filter) Fields() []string {
	var out []string
	if !f.All() {
		f.root.fields(&out)
	}
	return out
}

func (n *node) fields(out *[]string) {
	for _, k := range n.kids {
		k.fields(out)
	}
	if name := fields[n.term.field].name; n.op == opTerm && !slices.Contains(*out, name) {
		*out = append(*out, name)
	}
}
