package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Marks around a package's output in the guest's stream.
const (
	beginMark = "\x1epkg-begin "
	endMark   = "\x1epkg-end "
)

// tally counts tests, subtests included. Those that ran again are in again, too.
type tally struct{ passed, failed, skipped, again int }

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
	t.again += o.again
}

// String is the last line of a run.
func (t tally) String() string {
	s := fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
	if t.again > 0 {
		s += fmt.Sprintf("; %d passed only when they ran again", t.again)
	}
	return s
}

// runReport turns one kernel's stream into one line per package. It is the writer that gets
// the guest's output.
type runReport struct {
	w       io.Writer
	kernel  string
	tasks   []task
	verbose bool

	part    []byte         // unfinished line
	cur     *pkgReport     // package that is running, nil between two
	next    int            // first task that has not reported
	total   tally          // of this guest
	settled tally          // of it what need not run again
	reasons map[string]int // skip reason -> how often
	failed  []task         // what may run again
	now     func() time.Time
}

// pkgReport collects one package's output.
type pkgReport struct {
	tally
	output  bytes.Buffer
	verbose bool
	begun   int               // where in output the running top-level test begins
	running bool              // it has not had its end
	counts  tally             // of it so far
	ended   []string          // top-level tests that passed or were skipped
	settled tally             // their counts
	bad     []string          // top-level tests that failed
	test    string            // test whose output comes now
	lastLog map[string]string // test -> its last t.Log or t.Skip line
	start   time.Time
}

func newRunReport(w io.Writer, kernel string, tasks []task, verbose bool) *runReport {
	return &runReport{w: w, kernel: kernel, tasks: tasks, verbose: verbose, reasons: map[string]int{}, now: time.Now}
}

// Write takes any piece of the stream.
func (r *runReport) Write(b []byte) (int, error) {
	r.part = append(r.part, b...)
	for {
		line, rest, ok := bytes.Cut(r.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if err := r.line(string(line)); err != nil {
			return 0, err
		}
		r.part = rest
	}
}

// line handles one line. A mark may follow output that did not end its own line.
func (r *runReport) line(s string) error {
	if i := strings.Index(s, "\x1epkg-"); i > 0 {
		r.output(s[:i])
		s = s[i:]
	}
	if _, ok := strings.CutPrefix(s, beginMark); ok {
		r.cur = &pkgReport{verbose: r.verbose, lastLog: map[string]string{}, start: r.now()}
		return nil
	}
	if rest, ok := strings.CutPrefix(s, endMark); ok && r.cur != nil {
		return r.end(rest)
	}
	r.output(s)
	return nil
}

// output adds a line to the running package.
func (r *runReport) output(s string) {
	if r.cur != nil {
		r.cur.line(s, r.reasons)
	}
}

// end closes a package; rest is "<index> <exit code>".
func (r *runReport) end(rest string) error {
	f := strings.Fields(rest)
	if len(f) != 2 {
		return fmt.Errorf("package mark %q has no exit code", rest)
	}
	code, err := strconv.Atoi(f[1])
	if err != nil {
		return fmt.Errorf("package mark: %w", err)
	}
	why := ""
	if code != 0 && r.cur.failed == 0 {
		r.cur.failed++
		why = fmt.Sprintf(", exit code %d", code)
	}
	return r.print(code, why)
}

// print writes the line of the running package and, where wanted, its output. code is -1 of
// a guest that died.
func (r *runReport) print(code int, why string) error {
	p, ok, of := r.cur, code == 0, r.tasks[r.next]
	word, counts := "ok  ", fmt.Sprintf("%d passed", p.passed)
	if !ok {
		word = "FAIL"
		counts += fmt.Sprintf(", %d failed", p.failed)
	}
	if p.skipped > 0 {
		counts += fmt.Sprintf(", %d skipped", p.skipped)
	}
	_, err := fmt.Fprintf(r.w, "%s %-6s %-24s %6.1fs  %s%s\n", word, r.kernel, of.name(),
		r.now().Sub(p.start).Seconds(), counts, why)
	if err == nil && (!ok || r.verbose) {
		_, err = r.w.Write(p.output.Bytes())
	}
	r.total.add(p.tally)
	if ok {
		r.settled.add(p.tally)
	} else {
		again, settled := p.again(of, code)
		r.failed = append(r.failed, again)
		r.settled.add(settled)
	}
	r.cur = nil
	r.next++
	return err
}

// sum is what a guest of n packages came to; without a report they have failed.
func (r *runReport) sum(n int) tally {
	if r == nil {
		return tally{failed: n}
	}
	return r.total
}

// finish accounts for packages that did not report, prints the skip reasons and returns the
// sum of this guest. err is what ended it.
func (r *runReport) finish(err error) tally {
	if r.cur != nil {
		r.output(string(r.part))
		r.cur.failed++
		r.print(-1, ", the guest died")
	}
	for ; r.next < len(r.tasks); r.next++ {
		why := "the guest ended before it"
		if err == nil {
			why = "no report"
		}
		fmt.Fprintf(r.w, "FAIL %-6s %-24s %6s   %s\n", r.kernel, r.tasks[r.next].name(), "-", why)
		r.failed = append(r.failed, r.tasks[r.next])
		r.total.failed++
	}
	for _, reason := range slices.Sorted(maps.Keys(r.reasons)) {
		fmt.Fprintf(r.w, "skip %-6s %3d x %s\n", r.kernel, r.reasons[reason], reason)
	}
	return r.total
}

var (
	topLine    = regexp.MustCompile(`^=== RUN\s+[^/]+$`)
	endLine    = regexp.MustCompile(`^--- (PASS|SKIP): [^/]+$`) // of a whole test
	resultLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (.+) \([0-9.]+s\)$`)
	stateLine  = regexp.MustCompile(`^=== (RUN|NAME|CONT)\s+(.*)$`)
	logLine    = regexp.MustCompile(`^\s+\S+\.go:[0-9]+: (.*)$`)
)

// line reads one line of `-test.v=test2json` output: control lines begin with a ^V, which may
// follow output that did not end its own line.
func (p *pkgReport) line(s string, reasons map[string]int) {
	for part := range strings.SplitSeq(s, "\x16") {
		if topLine.MatchString(part) {
			p.begun, p.running, p.counts = p.output.Len(), true, tally{}
		}
		if part != "" && !strings.HasPrefix(part, "=== NAME") {
			p.output.WriteString(part + "\n")
		}
		if !p.verbose && endLine.MatchString(part) { // details are for failures
			p.output.Truncate(p.begun)
		}
		p.event(part, reasons)
	}
	if s == "" {
		p.output.WriteString("\n")
	}
}

// event updates the counts. A skipped test's last log line is its reason.
func (p *pkgReport) event(s string, reasons map[string]int) {
	if m := stateLine.FindStringSubmatch(s); m != nil {
		p.test = m[2]
	} else if m := logLine.FindStringSubmatch(s); m != nil {
		p.lastLog[p.test] = m[1]
	} else if m := resultLine.FindStringSubmatch(s); m != nil {
		p.result(m[1], m[2], reasons)
	}
}

// result counts one test.
func (p *pkgReport) result(verdict, test string, reasons map[string]int) {
	var one tally
	switch verdict {
	case "PASS":
		one.passed++
	case "FAIL":
		one.failed++
	case "SKIP":
		one.skipped++
		reason := p.lastLog[test]
		if reason == "" {
			reason = "no reason given: " + test
		}
		reasons[reason]++
	}
	p.add(one)
	p.counts.add(one)
	if !strings.Contains(test, "/") {
		p.end(test, verdict != "FAIL")
	}
}

// end notes the end of a top-level test.
func (p *pkgReport) end(test string, ok bool) {
	p.running = false
	if !ok {
		p.bad = append(p.bad, test)
		return
	}
	p.ended = append(p.ended, test)
	p.settled.add(p.counts)
}
