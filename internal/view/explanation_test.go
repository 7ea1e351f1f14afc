package view

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

func TestExplanation(t *testing.T) {
	f := testFindings()
	piece := func(i int) agg.Weighed {
		return agg.Weighed{Time: f[0].First.Add(time.Duration(i) * time.Second), Contact: f[0].Evidence.Samples[i%3], Increment: 1.386,
			Tests: []agg.Tested{{Key: "source", Statistic: 1.386 * float64(i)}, {Key: hostile, Statistic: math.Inf(1)}}}
	}
	x := agg.Explanation{Finding: f[0], First: []agg.Weighed{piece(0), piece(1)}, Between: 7, Last: []agg.Weighed{piece(9), {Contact: f[1].Evidence.Samples[1], Note: hostile}}}
	var text, js, none bytes.Buffer
	for w, o := range map[*bytes.Buffer]FindingOptions{&text: {Names: testNames}, &js: {JSON: true, Names: testNames}} {
		if err := WriteExplanation(w, &x, o); err != nil {
			t.Fatal(err)
		}
		harmless(t, w.Bytes())
	}
	for _, w := range []string{"the evidence, 11 pieces", "... 7 more (--steps) ...", "\n  2026-11-22T19:38:02.000Z unanswered icmp 10.0.0.7 > 10.0.0.1 ", " +1.386 source 1.386, "} {
		if !strings.Contains(text.String(), w) {
			t.Errorf("does not say %q:\n%s", w, text.String())
		}
	}
	doc := decode(t, js.Bytes())
	if len(doc["steps"].([]any)) != 2 || len(doc["last_steps"].([]any)) != 2 || doc["steps_left_out"] != 7. || doc["finding"].(map[string]any)["id"] != "scan-1" {
		t.Errorf("%s", js.Bytes())
	}
	if err := WriteExplanation(&none, &agg.Explanation{Finding: f[2]}, FindingOptions{Names: testNames}); err != nil || !strings.Contains(none.String(), "no evidence piece by piece") {
		t.Errorf("%v: %s", err, none.String())
	}
}
