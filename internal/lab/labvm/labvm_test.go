package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

const twoPackages = beginMark + "0\n" +
	"\x16=== RUN   TestA\n" +
	"no newline\x16=== RUN   TestA/sub\n" +
	"\x16    --- PASS: TestA/sub (0.00s)\n" +
	"\x16--- PASS: TestA (0.01s)\n" +
	"\x16=== RUN   TestB\n    b_test.go:3: note\n    b_test.go:4: needs rain\n\x16--- SKIP: TestB (0.00s)\n" +
	"PASS\n" + endMark + "0 0\n" +
	beginMark + "1\n" +
	"\x16=== RUN   TestFine\nchatter\n\x16--- PASS: TestFine (0.00s)\n" +
	"\x16=== RUN   TestC\n    c_test.go:9: wrong\n\x16--- FAIL: TestC (0.00s)\n\x16=== NAME  \nFAIL" + endMark + "1 1\n"

// feed writes text in small pieces and returns what is printed, with times set to zero.
func feed(t *testing.T, text string, guest error, verbose bool) (string, tally) {
	t.Helper()
	var out strings.Builder
	pkgs := []pkg{{ImportPath: module + "/internal/a"}, {ImportPath: module + "/internal/b"}}
	r := newRunReport(&out, "6.1", tasksOf(pkgs), verbose)
	r.now = func() time.Time { return time.Time{} }
	for piece := range slices.Chunk([]byte(text), 7) {
		if _, err := r.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	s := out.String()
	return s, r.finish(guest)
}

func TestReport(t *testing.T) {
	got, total := feed(t, twoPackages, nil, false)
	const want = "ok   6.1    internal/a                  0.0s  2 passed, 1 skipped\n" +
		"FAIL 6.1    internal/b                  0.0s  1 passed, 1 failed\n" +
		"=== RUN   TestC\n    c_test.go:9: wrong\n--- FAIL: TestC (0.00s)\nFAIL\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if want := (tally{passed: 3, failed: 1, skipped: 1}); total != want {
		t.Errorf("got %v, want %v", total, want)
	}
}

// What a part of a test says that failed is shown, though the next part passes.
func TestReportOfPart(t *testing.T) {
	got, _ := feed(t, beginMark+"0\n\x16=== RUN   TestA\n\x16=== RUN   TestA/x\n    a_test.go:9: wrong\n\x16--- FAIL: TestA/x (0.00s)\n"+
		"\x16=== RUN   TestA/y\n\x16--- SKIP: TestA/y (0.00s)\n\x16--- FAIL: TestA (0.01s)\nFAIL\n"+endMark+"0 1\n"+beginMark+"1\n"+endMark+"1 0\n", nil, false)
	if !strings.Contains(got, "a_test.go:9: wrong") {
		t.Errorf("it is not said what was wrong:\n%s", got)
	}
}

func TestReportVerboseShowsPassing(t *testing.T) {
	if got, _ := feed(t, twoPackages, nil, true); !strings.Contains(got, "no newline\n=== RUN   TestA/sub\n") {
		t.Errorf("output of the passing package is missing:\n%s", got)
	}
}

func TestReportOfDeadGuest(t *testing.T) {
	var out strings.Builder
	r := newRunReport(&out, "6.1", tasksOf([]pkg{{ImportPath: module + "/a"}, {ImportPath: module + "/b"}}), false)
	if _, err := io.WriteString(r, beginMark+"0\n\x16=== RUN   TestA\nlast wor"); err != nil {
		t.Fatal(err)
	}
	total := r.finish(errors.New("panic"))
	for _, want := range []string{"FAIL 6.1    a ", "1 failed, the guest died", "last wor", "the guest ended before it"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if total.failed != 2 {
		t.Errorf("got %v, want 2 failed", total)
	}
	if len(r.failed) != 2 { // both may run once more
		t.Errorf("failed are %v", r.failed)
	}
}

func TestReportOfExitWithoutFailure(t *testing.T) {
	got, total := feed(t, beginMark+"0\npanic: boo\n"+endMark+"0 2\n"+beginMark+"1\n"+endMark+"1 0\n", nil, false)
	if !strings.Contains(got, "0 passed, 1 failed, exit code 2\npanic: boo\n") || total.failed != 1 {
		t.Errorf("got %v\n%s", total, got)
	}
}

func TestReportSkipReasons(t *testing.T) {
	var out strings.Builder
	r := newRunReport(&out, "6.1", tasksOf([]pkg{{ImportPath: module + "/a"}}), false)
	const skips = "\x16=== RUN   TestB\n    b_test.go:4: needs rain\n\x16--- SKIP: TestB (0.00s)\n" +
		"\x16=== RUN   TestC\n    c_test.go:4: needs rain\n\x16--- SKIP: TestC (0.00s)\n"
	if _, err := io.WriteString(r, beginMark+"0\n"+skips+endMark+"0 0\n"); err != nil {
		t.Fatal(err)
	}
	r.finish(nil)
	if want := "skip 6.1      2 x needs rain\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got %q, want it to end in %q", out.String(), want)
	}
}

func TestParsePackages(t *testing.T) {
	const list = `{"ImportPath": "github.com/ctsight/ctsight/internal/a", "Deps": ["github.com/ctsight/ctsight/internal/lab"]}
{"ImportPath": "github.com/ctsight/ctsight/internal/a.test", "Deps": ["testing", "github.com/ctsight/ctsight/internal/lab"]}
{"ImportPath": "github.com/ctsight/ctsight/internal/b [github.com/ctsight/ctsight/internal/b.test]", "Deps": ["github.com/ctsight/ctsight/internal/lab"]}
{"ImportPath": "github.com/ctsight/ctsight/internal/c.test", "Deps": ["testing"]}
{"ImportPath": "github.com/ctsight/ctsight/internal/d.test", "Deps": ["github.com/ctsight/ctsight/internal/lab/vm"]}
{"ImportPath": "github.com/ctsight/ctsight/internal/lab.test", "Deps": ["github.com/ctsight/ctsight/internal/lab [github.com/ctsight/ctsight/internal/lab.test]"]}`
	pkgs, err := parsePackages(strings.NewReader(list))
	var names []string
	for _, p := range pkgs {
		names = append(names, p.name())
	}
	if want := []string{"internal/a", "internal/lab"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("got %v, %v, want %v", names, err, want)
	}
	if _, err := parsePackages(strings.NewReader("{")); err == nil {
		t.Error("a cut list is no error")
	}
}

func TestParseFlags(t *testing.T) {
	r := &testRun{stderr: io.Discard}
	err := r.parse([]string{"-kernel", "6.1", "-run", "X|Y", "-tests", "./a ./b", "-add", "/h:/g", "-env", "A=b", "--", "-test.short"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.patterns, []string{"./a", "./b"}) || r.kernels.String() != "6.1" || len(r.add) != 1 || len(r.env) != 1 {
		t.Errorf("got %+v", r)
	}
	for _, want := range []string{"-test.v=test2json", "-test.run=X|Y", "-test.short"} {
		if !slices.Contains(r.testArgs, want) {
			t.Errorf("no %s in %v", want, r.testArgs)
		}
	}
	for _, bad := range [][]string{{"-kernel", "4.4"}, {"-add", "x"}, {"-env", "=x"}, {"-nonsense"}} {
		if err := (&testRun{stderr: io.Discard}).parse(bad); err == nil {
			t.Errorf("%v is no error", bad)
		}
	}
}
