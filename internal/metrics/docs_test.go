package metrics

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

const (
	docsPath  = "../../docs/metrics.md"
	tableHead = "| name | type | labels | meaning | kernel counterpart |\n|---|---|---|---|---|\n"
)

// docsTable is the table of docs/metrics.md, from the families as they are.
func docsTable() string {
	b := strings.Builder{}
	b.WriteString(tableHead)
	for _, f := range families {
		typ := map[int]string{1: "counter", 2: "gauge", -1: "histogram"}[int(f.kind)]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", f.name, typ, strings.Join(f.labels, ", "), f.help, f.kernel)
	}
	return b.String()
}

// TestDocs compares the first table with the families; -update rewrites it.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), tableHead)
	_, after, ok2 := strings.Cut(rest, "\n\n")
	if !ok || !ok2 {
		t.Fatalf("%s has no table of metrics", docsPath)
	}
	golden(t, docsPath, []byte(before+docsTable()+"\n"+after))
}

// TestDocsAreWhatIsExported holds the table, and the lists of the docs, against
// what a scrape of everything really has.
func TestDocsAreWhatIsExported(t *testing.T) {
	doc, err := os.ReadFile(docsPath)
	if err != nil {
		t.Fatal(err)
	}
	s := worst()
	s.Tables = s.Tables[:1]
	mfs := gather(t, New(Options{TopPrefixes: 2}), s)
	for _, mf := range mfs {
		row := regexp.MustCompile("(?m)^\\| `" + mf.GetName() + "`.*$").FindString(string(doc))
		if strings.HasPrefix(mf.GetName(), prefix) && mf.GetName() != prefix+"build_info" && row == "" {
			t.Errorf("%s is not in %s", mf.GetName(), docsPath)
		}
		if row == "" {
			if !strings.Contains(string(doc), "`"+mf.GetName()+"`") {
				t.Errorf("%s is not mentioned in %s", mf.GetName(), docsPath)
			}
			continue
		}
		cells := strings.Split(row, " | ")
		if typ := strings.ToLower(mf.GetType().String()); cells[1] != typ {
			t.Errorf("%s is a %s, the docs say %s", mf.GetName(), typ, cells[1])
		}
		for _, m := range mf.Metric {
			if got := labelNames(m); len(got) != len(strings.Fields(strings.ReplaceAll(cells[2], ",", " "))) {
				t.Errorf("%s has labels %s, the docs say %s", mf.GetName(), got, cells[2])
			}
			for _, l := range labelNames(m) {
				if !strings.Contains(cells[2], l) {
					t.Errorf("%s has a label %s, the docs say %s", mf.GetName(), l, cells[2])
				}
			}
		}
	}
	for _, f := range families {
		family1(t, mfs, f) // and nothing is only in the docs
	}
}

func labelNames(m *dto.Metric) (out []string) {
	for _, l := range m.Label {
		out = append(out, l.GetName())
	}
	return out
}

// Help says what a number is of: its shape follows the semicolon.
func TestHelpSaysShape(t *testing.T) {
	for _, f := range families {
		if !strings.Contains(f.help, "; ") || !strings.HasSuffix(f.help, ".") || strings.ContainsAny(f.help+f.kernel, "|\n") {
			t.Errorf("%s: %q", f.name, f.help)
		}
	}
}
