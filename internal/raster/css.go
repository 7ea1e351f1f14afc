package raster

import (
	"image/color"
	"slices"
	"strconv"
	"strings"
)

// rule is one selector of a style sheet with what it sets.
type rule struct {
	parts  []compound // the last one is the element's own
	weight int
	sets   map[string]string
}

// compound is a tag, "" for any, with classes.
type compound struct {
	tag     string
	classes []string
	direct  bool // it is the parent of the one after it
}

// sheet is a style sheet: what of it is about light, or dark, on a screen.
type sheet struct {
	rules []rule
	vars  map[string]string
}

// parseSheet reads what our style sheets have: selectors of tags and classes, one level
// of @media. What depends on a pointer, a focus or paper is left out.
func parseSheet(css string, dark bool) *sheet {
	s := &sheet{vars: map[string]string{}}
	s.block(css, dark)
	slices.SortStableFunc(s.rules, func(a, b rule) int { return a.weight - b.weight })
	return s
}

func (s *sheet) block(css string, dark bool) {
	for {
		head, rest, ok := strings.Cut(css, "{")
		if !ok {
			return
		}
		end := closing(rest)
		body := rest[:end]
		css = rest[min(end+1, len(rest)):]
		head = strings.TrimSpace(head)
		switch {
		case strings.HasPrefix(head, "@media screen and (prefers-color-scheme: dark)"):
			if dark {
				s.block(body, dark)
			}
		case strings.HasPrefix(head, "@"):
		default:
			s.rule(head, body)
		}
	}
}

// closing is where the brace is that ends a block.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i
			}
			depth--
		}
	}
	return len(s)
}

func (s *sheet) rule(selectors, body string) {
	sets := map[string]string{}
	for d := range strings.SplitSeq(body, ";") {
		if name, value, ok := strings.Cut(d, ":"); ok {
			sets[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	for sel := range strings.SplitSeq(selectors, ",") {
		sel = strings.TrimSpace(sel)
		if sel == ":root" {
			for name, v := range sets {
				s.vars[name] = v
			}
			continue
		}
		if strings.ContainsAny(sel, ":[*+~") || strings.Trim(sel, "> ") != sel || sel == "" {
			continue
		}
		r := rule{sets: sets}
		for f := range strings.FieldsSeq(sel) {
			if f == ">" {
				r.parts[len(r.parts)-1].direct = true
				continue
			}
			names := strings.Split(f, ".")
			c := compound{tag: names[0], classes: names[1:]}
			r.weight += 100 * len(c.classes)
			if c.tag != "" {
				r.weight++
			}
			r.parts = append(r.parts, c)
		}
		s.rules = append(s.rules, r)
	}
}

func (c *compound) matches(e *element) bool {
	if c.tag != "" && c.tag != e.tag {
		return false
	}
	for _, name := range c.classes {
		if !slices.Contains(e.classes, name) {
			return false
		}
	}
	return true
}

// matches says whether a rule is about the last of a line of elements.
func (r *rule) matches(line []*element) bool {
	k := len(r.parts) - 1
	if !r.parts[k].matches(line[len(line)-1]) {
		return false
	}
	for i := len(line) - 2; k > 0; i-- {
		if i < 0 {
			return false
		}
		switch {
		case r.parts[k-1].matches(line[i]):
			k--
		case r.parts[k-1].direct:
			return false
		}
	}
	return true
}

// value resolves variables.
func (s *sheet) value(v string) string {
	if name, ok := strings.CutPrefix(v, "var("); ok {
		return s.vars[strings.TrimSuffix(name, ")")]
	}
	return v
}

// parseColor reads #rgb and #rrggbb; anything else is none.
func parseColor(v string) (c color.NRGBA, ok bool) {
	hex, ok := strings.CutPrefix(v, "#")
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	n, err := strconv.ParseUint(hex, 16, 32)
	if !ok || err != nil || len(hex) != 6 {
		return c, false
	}
	return color.NRGBA{byte(n >> 16), byte(n >> 8), byte(n), 255}, true
}
