package main

import (
	"os"
	"testing"

	"github.com/ctsight/ctsight/internal/lab/ctreplay"
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
