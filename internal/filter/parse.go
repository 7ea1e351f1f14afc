package filter

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// maxDepth bounds the nesting of parentheses and negations.
const maxDepth = 200

// parser reads
//
//	or   = and { "or" and }
//	and  = unary { [ "and" ] unary }
//	unary = "not" unary | "(" or ")" | term
//	term = word | field [ "=" | "!=" ] value { "," value }
type parser struct {
	toks  []token
	opts  Options
	depth int
}

// peek returns the next token and leaves it there. The last one stays.
func (p *parser) peek() token { return p.toks[0] }

func (p *parser) take() token {
	t := p.toks[0]
	if t.kind != tokEnd {
		p.toks = p.toks[1:]
	}
	return t
}

func (p *parser) accept(k tokKind) bool {
	if p.peek().kind != k {
		return false
	}
	p.take()
	return true
}

func (p *parser) or() (*node, error) {
	var kids []*node
	for {
		n, err := p.and()
		if err != nil {
			return nil, err
		}
		kids = append(kids, n)
		if !p.accept(tokOr) {
			return join(opOr, kids), nil
		}
	}
}

func (p *parser) and() (*node, error) {
	var kids []*node
	for {
		n, err := p.unary()
		if err != nil {
			return nil, err
		}
		kids = append(kids, n)
		if p.accept(tokAnd) {
			continue
		}
		// Without an operator it is "and", as in conntrack(8)'s own lines:
		// src=10.0.0.1 dst=10.0.0.2
		switch p.peek().kind {
		case tokWord, tokNot, tokOpen:
			continue
		}
		return join(opAnd, kids), nil
	}
}

func (p *parser) unary() (*node, error) {
	t := p.take()
	if p.depth++; p.depth > maxDepth {
		return nil, &SyntaxError{t.col, fmt.Sprintf("more than %d parentheses or negations in one another", maxDepth)}
	}
	defer func() { p.depth-- }()
	switch t.kind {
	case tokNot:
		n, err := p.unary()
		if err != nil {
			return nil, err
		}
		return negate(n), nil
	case tokOpen:
		n, err := p.or()
		if err != nil {
			return nil, err
		}
		if c := p.peek(); !p.accept(tokClose) {
			return nil, p.unexpected(c, fmt.Sprintf(`"and", "or" or the ")" of column %d`, t.col))
		}
		return n, nil
	case tokWord:
		return p.term(t)
	}
	return nil, p.unexpected(t, `a word such as src, dport, reason, drop, "not" or "("`)
}

// term reads the rest of a term that starts with the word t.
func (p *parser) term(t token) (*node, error) {
	word := strings.ReplaceAll(strings.ToLower(t.text), "_", "-")
	if s, ok := short[word]; ok {
		n := &node{term: s}
		if word == "unreplied" {
			return negate(n), nil
		}
		return n, nil
	}
	f, ok := fieldOf(word)
	if !ok {
		return nil, unknownWord(t)
	}
	f = p.qualify(f)
	n := &node{term: term{field: f}}
	not := p.accept(tokUnequal)
	if !not {
		p.accept(tokEqual)
	}
	for {
		if err := p.value(&n.term, p.take()); err != nil {
			return nil, err
		}
		if !p.accept(tokComma) {
			break
		}
	}
	if not {
		return negate(n), nil
	}
	return n, nil
}

// qualify takes tcpdump's second word: src host, dst net, src port.
func (p *parser) qualify(f field) field {
	if f != fieldSrc && f != fieldDst || p.peek().kind != tokWord {
		return f
	}
	g, ok := fieldOf(strings.ToLower(p.peek().text))
	switch {
	case ok && g == fieldHost:
		p.take()
	case ok && g == fieldPort:
		p.take()
		if f == fieldSrc {
			return fieldSport
		}
		return fieldDport
	}
	return f
}

// value adds one value to the term.
func (p *parser) value(t *term, v token) error {
	info := &fields[t.field]
	if v.kind != tokWord && v.kind != tokQuoted {
		return p.unexpected(v, want(t.field)+" after "+strconv.Quote(info.name))
	}
	var s span
	var err error
	switch info.sort {
	case sortAddr:
		var pre netip.Prefix
		pre, err = prefix(v)
		t.nets = append(t.nets, pre)
		return err
	case sortText:
		t.texts = append(t.texts, v.text)
		return nil
	case sortRange:
		s, err = numbers(v, info)
	case sortMark:
		s, err = mark(v)
	case sortNetNS:
		s, err = p.netns(v)
	case sortName:
		s, err = named(t.field, v)
	}
	t.spans = append(t.spans, s)
	return err
}

// prefix reads an address or a prefix; bits behind the prefix are cleared.
func prefix(v token) (netip.Prefix, error) {
	if pre, err := netip.ParsePrefix(v.text); err == nil {
		return pre.Masked(), nil
	}
	if a, err := netip.ParseAddr(v.text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.Prefix{}, &SyntaxError{v.col, "expected " + want(fieldSrc) + ", not " + show(v)}
}

func numbers(v token, info *fieldInfo) (span, error) {
	lo, hi, isRange := strings.Cut(v.text, "-")
	if !isRange {
		lo, hi, isRange = strings.Cut(v.text, ":") // iptables' way
	}
	if !isRange {
		hi = lo
	}
	l, ok1 := parseUint(lo, info.max)
	h, ok2 := parseUint(hi, info.max)
	switch {
	case !ok1 || !ok2:
		return span{}, &SyntaxError{v.col, fmt.Sprintf("expected %s up to %d, not %s", info.want, info.max, show(v))}
	case l > h:
		return span{}, &SyntaxError{v.col, fmt.Sprintf("expected a range with its lower end first, not %s", show(v))}
	}
	return span{l, h}, nil
}

// parseUint reads a decimal or, with 0x, a hexadecimal number.
func parseUint(s string, limit uint32) (uint32, bool) {
	base := 10
	if h, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		s, base = h, 16
	}
	n, err := strconv.ParseUint(s, base, 32)
	return uint32(n), err == nil && n <= uint64(limit)
}

func mark(v token) (span, error) {
	val, mask, isMask := strings.Cut(v.text, "/")
	n, ok := parseUint(val, math.MaxUint32)
	m, okMask := uint32(math.MaxUint32), true
	if isMask {
		m, okMask = parseUint(mask, math.MaxUint32)
	}
	if !ok || !okMask {
		return span{}, &SyntaxError{v.col, "expected " + want(fieldMark) + ", not " + show(v)}
	}
	return span{n, m}, nil
}

func (p *parser) netns(v token) (span, error) {
	if n, ok := parseUint(v.text, math.MaxUint32); ok && v.kind == tokWord {
		return span{n, n}, nil
	}
	if p.opts.NetNS == nil {
		return span{}, &SyntaxError{v.col, "expected the inode number of a network namespace, not " + show(v)}
	}
	n, ok := p.opts.NetNS(v.text)
	if !ok {
		return span{}, &SyntaxError{v.col, "there is no network namespace " + show(v)}
	}
	return span{uint32(n), uint32(n)}, nil
}

// named reads a word of a closed list. Words of conntrack(8) may be in upper
// case, and a dash is as good as an underscore.
func named(f field, v token) (span, error) {
	n, ok := fields[f].number(strings.ReplaceAll(strings.ToLower(v.text), "-", "_"))
	if !ok {
		n, ok = fields[f].number(strings.ToLower(v.text))
	}
	if !ok {
		return span{}, unknownName(f, v)
	}
	return span{n, n}, nil
}
