package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/ctreplay"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// docs/evaluation.md is what the program makes of the captures.
func TestDocumentIsCurrent(t *testing.T) {
	ctreplay.Dir(t)
	want, err := document()
	if err != nil {
		t.Fatal(err)
	}
	const path = "../../../docs/evaluation.md"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what `make eval` writes: run it, and look at what has changed", path)
	}
}

// What findings say of the public captures is what is in them.
func TestCountsAreExact(t *testing.T) {
	ctreplay.Dir(t)
	all, err := capture.Public()
	if err != nil {
		t.Fatal(err)
	}
	n := checked{}
	for i := range all {
		told, err := ours(&all[i])
		if err != nil {
			t.Fatal(err)
		}
		m := check(&all[i], told)
		if m.equal != m.told {
			t.Errorf("%s: of %d findings the counts of %d agree", all[i].Name, m.told, m.equal)
		}
		n.add(m)
	}
	if n.told < 100 {
		t.Errorf("only %d were counted again", n.told)
	}
}

// missed are the scans that we made and that are not found.
var missed = []string{"scan of 443 by a host that has had 5,000 answers there"}

// wrong are what benign captures have flagged, and why it cannot be told apart when it
// is told (docs/evaluation.md).
var wrong = []string{"100 % dead", "whole pool of 50", "host whose IPv6", "rollout", "FTP client", "chrony"}

func TestMadeCaptures(t *testing.T) {
	scans, benign, err := makeOnce()
	if err != nil {
		t.Fatal(err)
	}
	for i := range scans {
		m := &scans[i]
		n, _, confirmed := m.found()
		_, _, found := middle(confirmed)
		if want := !slices.Contains(missed, m.Name); (found == n) != want {
			t.Errorf("%s: %d of %d are found", m.Name, found, n)
		}
		if k, _ := m.flagged(); k > 0 {
			t.Errorf("%s: %d benign sources are flagged", m.Name, k)
		}
	}
	for i := range benign {
		m := &benign[i]
		known := slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(m.Name, s) })
		if n, _ := m.flagged(); n > 0 && !known {
			t.Errorf("%s: %d sources are flagged", m.Name, n)
		}
		if n := m.others(); n > 0 {
			t.Errorf("%s: %d alarms of other classes: %s", m.Name, n, toldOf(m.told))
		}
	}
	for _, m := range slices.Concat(scans, benign) {
		if m.checked.equal != m.checked.told {
			t.Errorf("%s: of %d findings the counts of %d agree", m.Name, m.checked.told, m.checked.equal)
		}
	}
}

// The times of detection.md, section 7, until a scan is more than suspect; of what is
// tried every 0.4 s until it is suspect, where it is no scan of one host.
func TestTimeToDetect(t *testing.T) {
	scans, _, err := makeOnce()
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, goal := range []struct {
		like string
		most time.Duration
	}{
		{"100 % refused, 100/s", 500 * time.Millisecond}, {"100 % refused, 10000/s", 500 * time.Millisecond},
		{"100 % filtered, 100/s", 3500 * time.Millisecond}, {"100 % filtered, 10000/s", 3500 * time.Millisecond},
		{"vertical, 100 % refused, 2/s", 8 * time.Second}, {"vertical, 100 % filtered, 2/s", 8 * time.Second},
		{"horizontal, 100 % refused, 1 per 15s", 3 * time.Minute}, {"vertical, 100 % filtered, 1 per 15s", 3 * time.Minute},
		{"horizontal, 100 % refused, 1 per 5m0s", 55 * time.Minute}, {"vertical, 100 % filtered, 1 per 5m0s", 55 * time.Minute},
	} {
		for i := range scans {
			if m := &scans[i]; strings.HasSuffix(m.Name, goal.like) && !strings.HasPrefix(m.Name, "strobe") {
				held++
				_, _, confirmed := m.found()
				if _, worst, n := middle(confirmed); n == 0 || worst.took > goal.most {
					t.Errorf("%s: %v, may be %v", m.Name, worst.took, goal.most)
				}
			}
		}
	}
	if held < 18 {
		t.Errorf("%d scenarios were looked at", held)
	}
}
