package scan

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// finding is a line of `ctsight detect -o json`: section 6 of the contract.
type finding struct {
	ID, Class, Shape, State, Severity, Source, Prefix string
	Time, First, Last                                 time.Time
	Raised                                            int
	Target                                            struct {
		Addr, Proto string
		Port        int
	}
	Evidence struct {
		Contacts, Attempts, Answered, Refused, Unanswered, Invalid, Pending, Excused int

		HalfOpen int `json:"half_open"`
		Dsts     int `json:"distinct_dsts"`
		Dports   int `json:"distinct_dports"`
		Sources  int `json:"distinct_sources"`
		Figures  map[string]float64
		Used     []string
		Samples  []struct{ Time time.Time }
	}
	Statistic, Threshold float64
	Why                  string
	WhyNotBenign         string `json:"why_not_benign"`
	Spoofable            bool
	Loss                 struct{ Lost int }

	line string
}

// counts are those of its evidence.
func (f *finding) counts() counts {
	e := &f.Evidence
	return counts{e.Refused, e.Unanswered, e.HalfOpen, e.Invalid, e.Answered, e.Dsts, e.Dports}
}

// String is the sentence with what a reader of a failure needs.
func (f *finding) String() string {
	return fmt.Sprintf("%s %s %s %s%s: %s", f.ID, f.State, strings.TrimSpace(f.Class+" "+f.Shape), f.Source, f.Prefix, f.Why)
}

// watcher is `ctsight detect` and what it has told.
type watcher struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan error

	mu    sync.Mutex
	lines []finding
	bad   error
	log   bytes.Buffer
}

// detect starts it beside the town, and waits until it traces.
func (w *town) detect(args ...string) *watcher {
	w.t.Helper()
	d := &watcher{t: w.t, done: make(chan error, 1)}
	d.cmd = exec.Command("ctsight", append([]string{"detect", "-o", "json", "--netns", w.R.Name(), "--log.level", "debug"}, args...)...)
	out, err := d.cmd.StdoutPipe()
	must(w.t, err)
	log, err := d.cmd.StderrPipe()
	must(w.t, err)
	must(w.t, d.cmd.Start())
	tracing := make(chan bool, 1)
	go func() {
		for sc := bufio.NewScanner(log); sc.Scan(); {
			d.mu.Lock()
			fmt.Fprintln(&d.log, sc.Text())
			d.mu.Unlock()
			if strings.Contains(sc.Text(), "msg=tracing") || strings.Contains(sc.Text(), "msg=attached") {
				select {
				case tracing <- true:
				default:
				}
			}
		}
	}()
	go func() {
		d.read(bufio.NewScanner(out))
		d.done <- d.cmd.Wait()
	}()
	select {
	case <-tracing:
	case err := <-d.done:
		w.t.Fatalf("ctsight detect: %v\n%s", err, &d.log)
	case <-time.After(patience):
		w.t.Fatal("ctsight detect does not trace")
	}
	time.Sleep(3 * time.Second) // until the tables are read
	return d
}

func (d *watcher) read(sc *bufio.Scanner) {
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f := finding{line: sc.Text()}
		err := json.Unmarshal(sc.Bytes(), &f)
		d.mu.Lock()
		if err != nil && d.bad == nil {
			d.bad = fmt.Errorf("%w: %s", err, sc.Text())
		}
		d.lines = append(d.lines, f)
		d.mu.Unlock()
	}
}

// told are the findings so far, each as often as it was told.
func (d *watcher) told() []finding {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]finding(nil), d.lines...)
}

// stop ends it, and returns all that it has told.
func (d *watcher) stop() []finding {
	d.t.Helper()
	must(d.t, d.cmd.Process.Signal(os.Signal(syscall.SIGINT)))
	if err := <-d.done; err != nil {
		d.t.Errorf("ctsight detect: %v\n%s", err, &d.log)
	}
	if d.bad != nil {
		d.t.Error(d.bad)
	}
	return d.told()
}

// memory is its own memory in MB, without what belongs to files.
func (d *watcher) memory() (mb float64) {
	d.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	must(d.t, err)
	for line := range strings.Lines(string(data)) {
		if n, err := fmt.Sscanf(line, "RssAnon: %f kB", &mb); n == 1 && err == nil {
			return mb / 1024
		}
	}
	d.t.Fatal("no RssAnon")
	return 0
}

// took is how long after the first probe it was told, and after the last of those it
// rests on. First is when the first had failed.
func (f *finding) took() (first, last time.Duration) {
	from, to := f.First, f.First
	if s := f.Evidence.Samples; len(s) > 0 {
		from, to = s[0].Time, s[len(s)-1].Time
	}
	return f.Time.Sub(from), f.Time.Sub(to)
}

// incident is a finding from its first line to its last.
type incident []finding

// incidents are those of a condition, in the order they were first told.
func incidents(lines []finding, want func(*finding) bool) []incident {
	var out []incident
	at := map[string]int{}
	for i := range lines {
		f := &lines[i]
		if !want(f) {
			continue
		}
		k, known := at[f.ID]
		if !known {
			k = len(out)
			at[f.ID] = k
			out = append(out, nil)
		}
		out[k] = append(out[k], *f)
	}
	return out
}

// confirmed is its first line in which it is, nil for never.
func (i incident) confirmed() *finding {
	for k := range i {
		if i[k].State == "confirmed" {
			return &i[k]
		}
	}
	return nil
}

// last is how it stands.
func (i incident) last() *finding { return &i[len(i)-1] }
