package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	failed := errors.New("exit status 3")
	for _, tt := range []struct {
		name, report string
		err          error
		ok           bool
		why          string
	}{
		{"fentry", `{"backend":"fentry","warnings":[]}`, nil, true, "fentry"},
		{"kprobe", `{"backend":"kprobe"}`, nil, true, "kprobe"},
		{"netfilter", `{"backend":"netfilter"}`, nil, false, "cannot tell whose"},
		{"refused", `{"backend":"none","warnings":["operation not permitted. "]}`, failed, false, "doctor says: operation not permitted"},
		{"silent", `{"backend":"none"}`, failed, false, "no backend"},
		{"broken", `panic`, failed, false, "exit status 3"},
	} {
		ok, why := decide([]byte(tt.report), tt.err)
		if ok != tt.ok || !strings.Contains(why, tt.why) {
			t.Errorf("%s: %t, %q; want %t, %q", tt.name, ok, why, tt.ok, tt.why)
		}
	}
}

func TestOnFirstWrite(t *testing.T) {
	var out bytes.Buffer
	calls := 0
	w := &onFirstWrite{w: &out, do: func(time.Duration) { calls++ }}
	for _, s := range []string{"", "a", "b"} {
		if _, err := w.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 || out.String() != "ab" {
		t.Errorf("%d calls, wrote %q", calls, out.String())
	}
}
