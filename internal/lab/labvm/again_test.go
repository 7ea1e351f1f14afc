package main

import (
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"
)

// What runs again is what failed, or has had no end, and nothing that is settled.
func TestAgain(t *testing.T) {
	const (
		fine = "\x16=== RUN   TestFine\n\x16=== RUN   TestFine/sub\n\x16    --- PASS: TestFine/sub (0.00s)\n\x16--- PASS: TestFine (0.01s)\n"
		skip = "\x16=== RUN   TestSkip\n    b_test.go:4: needs rain\n\x16--- SKIP: TestSkip (0.00s)\n"
		bad  = "\x16=== RUN   TestBad\n\x16=== RUN   TestBad/a\n\x16    --- PASS: TestBad/a (0.00s)\n" +
			"\x16=== RUN   TestBad/b\n\x16    --- FAIL: TestBad/b (0.00s)\n\x16--- FAIL: TestBad (0.01s)\n"
		open = "\x16=== RUN   TestOpen\n"
	)
	settled := tally{passed: 2, skipped: 1}
	for _, tt := range []struct {
		name, output, end string
		only, but         []string
		settled           tally
	}{
		{"failed", fine + bad + skip + "FAIL\n", endMark + "0 1\n", []string{"TestBad"}, nil, settled},
		{"panicked", fine + skip + bad + "panic: boo\n", endMark + "0 2\n", nil, []string{"TestFine", "TestSkip"}, settled},
		{"timed out", skip + fine + open + "panic: test timed out\n", endMark + "0 2\n", nil, []string{"TestSkip", "TestFine"}, settled},
		{"died", fine + bad + skip + open, "", nil, []string{"TestFine", "TestSkip"}, settled},
		{"leaked", fine + skip + "PASS\nclose the probe: busy\n", endMark + "0 1\n", nil, nil, tally{}},
		{"panicked at the end", fine + skip + "PASS\npanic: boo\n", endMark + "0 2\n", nil, nil, tally{}},
		{"silent", "", "", nil, nil, tally{}},
	} {
		whole := tasksOf([]pkg{{ImportPath: module + "/a"}})
		r := newRunReport(io.Discard, "6.1", whole, false)
		if _, err := io.WriteString(r, beginMark+"0\n"+tt.output+tt.end); err != nil {
			t.Fatal(err)
		}
		if tt.end == "" {
			r.finish(errors.New("panic"))
		}
		want := []task{{pkg: whole[0].pkg, only: tt.only, but: tt.but}}
		if !reflect.DeepEqual(r.failed, want) || r.settled != tt.settled {
			t.Errorf("%s: again %v, settled %v; want %v, %v", tt.name, r.failed, r.settled, want, tt.settled)
		}
	}
}

func TestTaskArgs(t *testing.T) {
	given := []string{"-test.v", "-test.run=X|Y", "-test.skip=^TestLockdown$"}
	for _, tt := range []struct {
		of   task
		want []string
	}{
		{task{}, nil},
		{task{only: []string{"TestA", "TestB"}}, []string{"-test.run=^(TestA|TestB)$"}},
		{task{but: []string{"TestA"}}, []string{"-test.skip=^TestLockdown$|^(TestA)$"}},
	} {
		if got := tt.of.args(given); !slices.Equal(got, append(slices.Clone(given), tt.want...)) {
			t.Errorf("%v: got %q", tt.of, got)
		}
	}
}
