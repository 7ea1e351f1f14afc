package page

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// all returns the elements that fit.
func all(n *html.Node, fits func(*html.Node) bool) (out []*html.Node) {
	for e := range n.Descendants() {
		if e.Type == html.ElementNode && fits(e) {
			out = append(out, e)
		}
	}
	return out
}

func named(names ...string) func(*html.Node) bool {
	return func(n *html.Node) bool { return slices.Contains(names, n.Data) }
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// What needs more than eyes is there: each picture has a caption, a title, a
// description and its numbers as a table, each control a name, and what is referred
// to exists once.
func TestAccess(t *testing.T) {
	root, err := html.Parse(strings.NewReader(write(t, gateway())))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]int{}
	for _, n := range all(root, func(n *html.Node) bool { return attribute(n, "id") != "" }) {
		ids[attribute(n, "id")]++
	}
	for id, n := range ids {
		if n != 1 {
			t.Errorf("%d times %q", n, id)
		}
	}
	for _, n := range all(root, func(*html.Node) bool { return true }) {
		refs := strings.Fields(attribute(n, "aria-labelledby"))
		if to, ok := strings.CutPrefix(attribute(n, "href"), "#"); ok {
			refs = append(refs, to)
		}
		for _, to := range refs {
			if ids[to] != 1 {
				t.Errorf("%s refers to %q", n.Data, to)
			}
		}
		if attribute(n, "tabindex") == "0" && attribute(n, "aria-label") == "" {
			t.Errorf("%s can be walked to and has no name", n.Data)
		}
	}
	for _, s := range all(root, named("svg")) {
		picture := attribute(s, "role") == "img"
		inside := len(all(s, named("title"))) == 1 && len(all(s, named("desc"))) == 1
		nested := s.Parent.Data == "svg"
		if hidden := attribute(s, "aria-hidden") == "true"; !nested && picture != inside || !nested && picture == hidden {
			t.Errorf("a picture without words: %v", s.Attr)
		}
	}
	figures := all(root, named("figure"))
	for _, f := range figures {
		if c := f.FirstChild; c == nil || c.Data != "figcaption" || c.FirstChild == nil {
			t.Errorf("a figure without a caption: %v", f.Parent.Attr)
		}
		if len(all(f, named("table", "li"))) == 0 {
			t.Errorf("a figure without numbers: %v", f.Parent.Attr)
		}
	}
	for _, r := range all(root, named("tr")) {
		table := r.Parent.Parent
		if head, cells := len(all(table, named("th"))), len(all(r, named("td", "th"))); head != cells {
			t.Errorf("a row of %d cells under %d titles", cells, head)
		}
	}
	if len(figures) != 8 {
		t.Errorf("%d figures", len(figures))
	}
}
