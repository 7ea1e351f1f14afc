package main

import (
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
)

func round(tap string, insert, destroy float64) measure.Round {
	return measure.Round{Traffic: "forward", Tap: tap, Insert: []float64{insert}, Destroy: []float64{destroy}}
}

func result(shift float64) measure.Result {
	return measure.Result{Rounds: []measure.Round{
		round("none", 100, 40), round("ctsight", 151+shift, 60), round("none", 102, 40), round("ctnetlink", 802, 740), round("none", 102, 40),
	}}
}

func TestDeltas(t *testing.T) {
	tb, err := newTables([]measure.Result{result(0), result(0)}, 71)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tb.added["forward"]["ctsight"], (cost{50, 20}); got != want {
		t.Errorf("ctsight adds %v, want %v", got, want)
	}
	if got, want := tb.added["forward"]["none"], (cost{102, 40}); got != want {
		t.Errorf("the path itself is %v, want %v", got, want)
	}
	if err := tb.verdict(); err != nil {
		t.Error(err)
	}
}

func TestGate(t *testing.T) {
	for name, tc := range map[string]struct {
		runs []measure.Result
		gate float64
		want string
	}{
		"exceeded": {[]measure.Result{result(0)}, 69, "the gate is 69"},
		"unsteady": {[]measure.Result{result(0), result(10)}, 100, "runs differ"},
	} {
		t.Run(name, func(t *testing.T) {
			tb, err := newTables(tc.runs, tc.gate)
			if err != nil {
				t.Fatal(err)
			}
			if err := tb.verdict(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("verdict %v, want %q", err, tc.want)
			}
		})
	}
}

func TestBracket(t *testing.T) {
	if _, err := newTables([]measure.Result{{Rounds: []measure.Round{round("none", 1, 1), round("ctsight", 2, 2)}}}, 1); err == nil {
		t.Error("a tap without a round after it is accepted")
	}
}

func TestReplace(t *testing.T) {
	got, err := replace("a\n"+beginMark+"\nold\n"+endMark+"\nz\n", "new\n")
	if want := "a\n" + beginMark + "\n\nnew\n\n" + endMark + "\nz\n"; err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if _, err := replace("no marks", ""); err == nil {
		t.Error("a document without marks is accepted")
	}
}
