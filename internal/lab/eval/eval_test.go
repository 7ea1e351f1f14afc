package main

import (
	"os"
	"testing"

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
