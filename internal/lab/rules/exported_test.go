package rules

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

const metricsDocs = "../../../docs/metrics.md"

// known is what can be asked for: docs/metrics.md, which internal/metrics holds
// against what a scrape has, and the vocabulary for reasons and causes.
type known struct {
	names    map[string][]string // labels by metric; nil where any will do
	prefixes []string            // of names that the docs write with a *
	values   map[string][]string // by label, where they are a closed list
}

var (
	docsRow    = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (counter|gauge|histogram) \\| ([^|]*) \\|")
	docsValues = regexp.MustCompile("(?m)^\\| `(\\w+)`[^|]*\\| ([^|]*) \\|$")
	docsWord   = regexp.MustCompile("`([a-z_0-9]+)(\\*?)`")
)

func exported(t *testing.T) *known {
	t.Helper()
	data, err := os.ReadFile(metricsDocs)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	k := &known{names: map[string][]string{"up": nil, "ALERTS": nil}, values: map[string][]string{}}
	for _, m := range docsRow.FindAllStringSubmatch(doc, -1) {
		labels := append([]string{"job", "instance"}, strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' || r == ' ' })...)
		k.names[m[1]] = labels
		if m[2] == "histogram" {
			k.names[m[1]+"_sum"], k.names[m[1]+"_count"] = labels, labels
			k.names[m[1]+"_bucket"] = append(slices.Clip(labels), "le")
		}
	}
	for _, m := range docsWord.FindAllStringSubmatch(doc, -1) {
		if _, there := k.names[m[1]]; m[2] != "" {
			k.prefixes = append(k.prefixes, m[1])
		} else if !there && ours.MatchString(m[1]) {
			k.names[m[1]] = nil
		}
	}
	for _, m := range docsValues.FindAllStringSubmatch(doc, -1) {
		for _, w := range docsWord.FindAllStringSubmatch(m[2], -1) {
			k.values[m[1]] = append(k.values[m[1]], w[1])
		}
	}
	for _, label := range []string{"netns", "rank", "class", "cause", "reason"} { // told in words
		delete(k.values, label)
	}
	for _, r := range event.Reasons {
		k.values["reason"] = append(k.values["reason"], r.Reason.String())
	}
	for _, c := range event.Causes {
		k.values["cause"] = append(k.values["cause"], c.Cause.String())
	}
	for label, n := range map[string]int{"bound": 3, "stage": 4, "counter": 9, "window": 3, "level": 4} {
		if len(k.values[label]) != n {
			t.Fatalf("%s: values of %s are %q, want %d", metricsDocs, label, k.values[label], n)
		}
	}
	return k
}

var (
	ours     = regexp.MustCompile(`^(ctsight_|process_|go_|instance\w*:)`)
	selector = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
)

// check returns what is wrong with the selectors of an expression that promtool
// takes: metrics, labels and values that nothing has.
func (k *known) check(expr string) (wrong []string) {
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		if !ours.MatchString(s[1]) {
			continue
		}
		labels, there := k.names[s[1]]
		if !there && !slices.ContainsFunc(k.prefixes, func(p string) bool { return strings.HasPrefix(s[1], p) }) {
			wrong = append(wrong, fmt.Sprintf("no metric %s", s[1]))
			continue
		}
		for _, m := range matcher.FindAllStringSubmatch(s[3], -1) {
			if labels != nil && !slices.Contains(labels, m[1]) {
				wrong = append(wrong, fmt.Sprintf("%s has no label %s", s[1], m[1]))
			} else if !k.takes(m[1], m[3]) {
				wrong = append(wrong, fmt.Sprintf("%s of %s is never %s", m[1], s[1], m[3]))
			}
		}
	}
	return wrong
}

// takes says whether each alternative is a value of the label.
func (k *known) takes(label, pattern string) bool {
	values, closed := k.values[label]
	if !closed || strings.HasPrefix(pattern, "$") {
		return true
	}
	for one := range strings.SplitSeq(pattern, "|") {
		re, err := regexp.Compile("^(" + one + ")$")
		if err != nil || !slices.ContainsFunc(values, re.MatchString) {
			return false
		}
	}
	return true
}
