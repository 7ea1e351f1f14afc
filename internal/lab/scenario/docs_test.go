package scenario

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
)

// Every reason, cause and recipe has a test that provokes it, or a paragraph
// that says why not: docs/exactness.md names the tests, docs/not-reproducible.md
// has the paragraphs.
func TestNothingIsUnproved(t *testing.T) {
	tests := testNames(t)
	recipes := map[string]bool{}
	for heading, names := range map[string][]string{"Reasons": reasonNames(), "Causes": causeNames()} {
		rows := tableRows(section(t, "exactness.md", "### "+heading))
		excused := excuses(section(t, "not-reproducible.md", "## "+heading))
		for _, name := range names {
			if _, ok := rows[name]; !ok && !excused[name] {
				t.Errorf("%s %s: no test in docs/exactness.md, no paragraph in docs/not-reproducible.md", heading, name)
			}
		}
		for name, row := range rows {
			if !slices.Contains(names, name) {
				t.Errorf("docs/exactness.md: %s is none of the %s", name, heading)
			}
			if row.kernels != "all" && !excused[name] {
				t.Errorf("%s is provoked on %s: docs/not-reproducible.md does not say why not elsewhere", name, row.kernels)
			}
			for _, test := range row.tests {
				if !tests[test] {
					t.Errorf("%s: there is no test %s", name, test)
				}
			}
			for _, recipe := range row.recipes {
				recipes[recipe] = true
			}
		}
	}
	for i := 1; i <= 24; i++ {
		if recipe := "T" + strconv.Itoa(i); !recipes[recipe] {
			t.Errorf("no test follows recipe %s", recipe)
		}
	}
}

func reasonNames() (out []string) {
	for _, r := range event.Reasons {
		out = append(out, r.Name)
	}
	return out
}

func causeNames() (out []string) {
	for _, c := range event.Causes {
		out = append(out, c.Name)
	}
	return out
}

// section is the part of a page of docs/ below a heading, up to the next.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	if lab.InVM() {
		t.Skip("reads docs/, which is not in the guest")
	}
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", page))
	must(t, err)
	_, rest, ok := strings.Cut(string(b), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("docs/%s has no heading %q", page, heading)
	}
	rest, _, _ = strings.Cut(rest, "\n#")
	return rest
}

// tableRow is a line of the tables in docs/exactness.md.
type tableRow struct {
	recipes, tests []string
	kernels        string
}

var (
	rowLine = regexp.MustCompile("(?m)^\\| `(\\w+)` \\|([^|]*)\\|([^|]*)\\| ([^|]*) \\|$")
	word    = regexp.MustCompile(`\w+`)
	lead    = regexp.MustCompile(`(?ms)^\*\*.*?\*\*`)
	code    = regexp.MustCompile("`(\\w+)`")
	testFn  = regexp.MustCompile(`(?m)^func (Test\w+)\(t `)
)

func tableRows(text string) map[string]tableRow {
	out := map[string]tableRow{}
	for _, m := range rowLine.FindAllStringSubmatch(text, -1) {
		out[m[1]] = tableRow{word.FindAllString(m[2], -1), word.FindAllString(m[3], -1), m[4]}
	}
	return out
}

// excuses are the names in the words in bold that begin a paragraph.
func excuses(text string) map[string]bool {
	out := map[string]bool{}
	for _, bold := range lead.FindAllString(text, -1) {
		for _, m := range code.FindAllStringSubmatch(bold, -1) {
			out[m[1]] = true
		}
	}
	return out
}

// testNames are the tests of this package and of internal/probe.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, pattern := range []string{"*_test.go", "../../probe/*_test.go"} {
		files, err := filepath.Glob(pattern)
		must(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			must(t, err)
			for _, m := range testFn.FindAllStringSubmatch(string(b), -1) {
				out[m[1]] = true
			}
		}
	}
	return out
}
