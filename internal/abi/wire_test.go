package abi_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

// TestEnums compares the numbers of bpf/wire.h with those of package event, by
// name and both ways. The text is read, because clang leaves the enums out of
// the objects' BTF: no field has their type.
func TestEnums(t *testing.T) {
	kinds := enum(t, "K_")
	if kinds["evictor"] == 0 || kinds["ext"] == 0 {
		t.Errorf("kinds %v lack those of the wire", kinds)
	}
	delete(kinds, "evictor") // never reach a user
	delete(kinds, "ext")
	delete(kinds, "sum")
	want := map[string]int{}
	for k := event.New; k <= event.Invalid; k++ {
		want[k.String()] = int(k)
	}
	equal(t, "kind", kinds, want)

	reasons := enum(t, "R_")
	bound(t, reasons, event.NumReasons)
	want = map[string]int{}
	for _, r := range event.Reasons {
		want[r.Name] = int(r.Reason)
	}
	equal(t, "reason", reasons, want)

	causes := enum(t, "C_")
	bound(t, causes, event.NumCauses)
	want = map[string]int{}
	for _, c := range event.Causes {
		want[c.Name] = int(c.Cause)
	}
	delete(want, event.Timeout.String()) // told by netlink, never by a program
	equal(t, "cause", causes, want)
}

// TestReasonKinds: on which side of the bounds in event.Reason.Kind a number lies
// is what the programs say of it.
func TestReasonKinds(t *testing.T) {
	for name, n := range enum(t, "R_") {
		if name == "max" {
			continue
		}
		r := event.Reason(n)
		want := event.Drop
		switch r {
		case event.ClashMerged, event.ClashNATReplyOnly, event.SynproxyConsumed, event.CreateRefused:
			want = event.Note
		case event.InvalidPacket, event.ICMPErrorPacket:
			want = event.Invalid
		}
		if r.Kind() != want {
			t.Errorf("%s is a %s, want %s", name, r.Kind(), want)
		}
	}
}

// bound takes the upper bound out of an enum.
func bound(t *testing.T, m map[string]int, want int) {
	t.Helper()
	if m["max"] != want {
		t.Errorf("upper bound %d in C, %d in Go", m["max"], want)
	}
	delete(m, "max")
	for name, n := range m {
		if n >= want {
			t.Errorf("%s = %d has no counter: there are %d", name, n, want)
		}
	}
}

func equal(t *testing.T, what string, c, g map[string]int) {
	t.Helper()
	for name, n := range c {
		if m, ok := g[name]; !ok || m != n {
			t.Errorf("%s %s is %d in bpf/wire.h, %d (%t) in package event", what, name, n, m, ok)
		}
	}
	for name, n := range g {
		if _, ok := c[name]; !ok {
			t.Errorf("%s %s = %d is not in bpf/wire.h", what, name, n)
		}
	}
}

// enum returns the enumerators of bpf/wire.h that begin with a prefix, lower
// case and without it.
func enum(t *testing.T, prefix string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "bpf", "wire.h"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^\t`+prefix+`(\w+) = (\d+),`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			t.Fatal(err)
		}
		out[strings.ToLower(m[1])] = n
	}
	if len(out) == 0 {
		t.Fatalf("bpf/wire.h has no enumerators %s...", prefix)
	}
	return out
}
