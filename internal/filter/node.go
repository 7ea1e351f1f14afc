package filter

import (
	"slices"

	"github.com/ctsight/ctsight/internal/event"
)

type op uint8

const (
	opTerm op = iota
	opAnd
	opOr
	opNot
)

// node is one operator with its operands, or one term.
type node struct {
	op   op
	kids []*node
	term term
}

// join makes one flat node of the operands: (a and b) and c is a and b and c.
func join(o op, kids []*node) *node {
	if len(kids) == 1 {
		return kids[0]
	}
	n := &node{op: o}
	for _, k := range kids {
		if k.op == o {
			n.kids = append(n.kids, k.kids...)
		} else {
			n.kids = append(n.kids, k)
		}
	}
	return n
}

// negate returns not n; two of them cancel.
func negate(n *node) *node {
	if n.op == opNot {
		return n.kids[0]
	}
	return &node{op: opNot, kids: []*node{n}}
}

func (n *node) match(e *event.Event) bool {
	switch n.op {
	case opAnd:
		for _, k := range n.kids {
			if !k.match(e) {
				return false
			}
		}
		return true
	case opOr:
		for _, k := range n.kids {
			if k.match(e) {
				return true
			}
		}
		return false
	case opNot:
		return !n.kids[0].match(e)
	}
	return n.term.match(e)
}

// append writes the canonical form. An operand in an operator that binds
// closer than its own gets parentheses: or 1, and 2, not 3.
func (n *node) append(b []byte, outer int) []byte {
	if n.op == opTerm {
		return n.term.append(b)
	}
	own := map[op]int{opOr: 1, opAnd: 2, opNot: 3}[n.op]
	if own < outer {
		b = append(b, '(')
	}
	if n.op == opNot {
		b = n.kids[0].append(append(b, "not "...), own)
	} else {
		for i, k := range n.kids {
			if i > 0 {
				b = append(b, map[op]string{opAnd: " and ", opOr: " or "}[n.op]...)
			}
			b = k.append(b, own)
		}
	}
	if own < outer {
		b = append(b, ')')
	}
	return b
}

func (n *node) equal(m *node) bool {
	return n.op == m.op && n.term.equal(&m.term) &&
		slices.EqualFunc(n.kids, m.kids, (*node).equal)
}
