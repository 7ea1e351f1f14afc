package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ctsight/ctsight/internal/netlab"
)

// scanCapture is a capture of one scan of ports: found, confirmed, and over.
func scanCapture() string {
	var b strings.Builder
	b.WriteString("#ctreplay v1\n#t_ns\tev\tid\tproto\tsrc\tsport\tdst\tdport\tstatus\tcause\tlife_ns\topkts\trpkts\n")
	const start = 1_700_000_000_000_000_000
	for i := range 40 {
		at := start + i*1_000_000
		fmt.Fprintf(&b, "%d\tN\t%d\ttcp\t192.0.2.7\t40000\t10.0.0.1\t%d\t-\t-\t-1\t1\t0\n", at, i, 1000+i)
		fmt.Fprintf(&b, "%d\tD\t%d\ttcp\t192.0.2.7\t40000\t10.0.0.1\t%d\tU\trst\t500000\t1\t1\n", at+500_000, i, 1000+i)
	}
	return b.String()
}

// file writes a capture to a file.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func gzipped(t *testing.T, s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := io.WriteString(z, s)
	must(t, err)
	must(t, z.Close())
	return b.String()
}

// However a capture comes, it says the same.
func TestDetectFrom(t *testing.T) {
	z, err := zstd.NewWriter(nil)
	must(t, err)
	defer z.Close()
	plain := file(t, "x.ctr.tsv", scanCapture())
	want := runCmd(t, ctsight(t, "detect", "--from", plain, "-o", "json", "--log.level", "error"))
	if want.code != exitDone || want.stderr != "" || want.stdout == "" {
		t.Fatalf("%+v", want)
	}
	for name, from := range map[string]string{
		"gzip":        file(t, "x.ctr.tsv.gz", gzipped(t, scanCapture())),
		"other name":  file(t, "x", gzipped(t, scanCapture())),
		"zstd":        file(t, "x.ctr.tsv.zst", string(z.EncodeAll([]byte(scanCapture()), nil))),
		"stdin":       "-",
		"stdin again": "-",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := ctsight(t, "detect", "--from", from, "-o", "json", "--log.level", "error")
			cmd.Stdin = strings.NewReader(scanCapture())
			if got := runCmd(t, cmd); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		})
	}
}

// A line of text has the sentence and the id; the summary goes to stderr.
func TestDetectText(t *testing.T) {
	from := file(t, "x.ctr.tsv", scanCapture()+"1700000001000000000\tD\t99\ttcp\t192.0.2.7\t1\t10.0.0.1\t1\tU\trst\t-1\t1\t1\n")
	r := runCmd(t, ctsight(t, "detect", "--from", from))
	if r.code != exitDone || !strings.Contains(r.stdout, " confirmed feed scan vertical 192.0.2.7: 192.0.2.7 tried ") || !strings.HasSuffix(r.stdout, "]\n") {
		t.Errorf("%+v", r)
	}
	for _, w := range []string{"lines=81", "events=81", "findings=1", "for=1s", "not in the table", "lines=1 "} {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("%q does not say %q", r.stderr, w)
		}
	}
	for _, tc := range []struct{ args, says, not string }{
		{"--state cleared", "", "confirmed"},
		{"--for 5ms", "", "scan"},
		{"not src 192.0.2.7", "", "scan"},
		{"src 192.0.2.0/24", "scan vertical", ""},
	} {
		r := runCmd(t, ctsight(t, append([]string{"detect", "--from", from}, strings.Fields(tc.args)...)...))
		if r.code != exitDone || !strings.Contains(r.stdout, tc.says) || tc.not != "" && strings.Contains(r.stdout, tc.not) {
			t.Errorf("%s: %+v", tc.args, r)
		}
	}
}

// What is wrong with a capture is one line with its place, and what was found before
// it is told.
func TestDetectHostile(t *testing.T) {
	scan := scanCapture()
	lines := strings.SplitAfter(scan, "\n")
	nothing := map[string]bool{"no capture": true, "cut gzip": true}
	for _, tc := range []struct{ name, capture, says string }{
		{"no capture", "\x7fELF\x02\x01\x01", ":1: 1 columns"},
		{"cut", scan[:len(scan)-30], ":82: 7 columns"},
		{"cut gzip", gzipped(t, scan)[:200], "cut short"},
		{"wrong order", scan + lines[2], ":83: t_ns \"1700000000000000000\": 39.5ms before"},
		{"clock set", scan + strings.Replace(lines[2], "1700000", "1900000", 1), ":83: t_ns \"1900000000000000000\": 2315 days after"},
		{"absurd port", scan + strings.Replace(lines[81], "\t40000\t", "\t400000\t", 1), ":83: sport \"400000\": more than 65535"},
		{"long line", scan + strings.Repeat("9", 1<<20), ":83: the line is longer than 65536 bytes"},
		{"terminal", scan + "\x1b]0;pwned\x07\n", ":83: 1 columns"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := runCmd(t, ctsight(t, "detect", "--from", file(t, "x", tc.capture)))
			oneError(t, r, exitFailed, tc.says)
			if found := strings.Contains(r.stdout, "confirmed"); found == nothing[tc.name] {
				t.Errorf("stdout %q", r.stdout)
			}
		})
	}
	oneError(t, runCmd(t, ctsight(t, "detect", "--from", filepath.Join(t.TempDir(), "none"))), exitFailed, "no such file")
}

// A line of a gigabyte from a pipe is over as soon as it is too long.
func TestDetectEndlessLine(t *testing.T) {
	cmd := ctsight(t, "detect", "--from", "-")
	in, err := cmd.StdinPipe()
	must(t, err)
	wrote := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(in, io.LimitReader(nines{}, 1<<30))
		in.Close()
		wrote <- n
	}()
	oneError(t, runCmd(t, cmd), exitFailed, "stdin:1: the line is longer")
	if n := <-wrote; n > 1<<24 {
		t.Errorf("%d bytes were taken", n)
	}
}

type nines struct{}

func (nines) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte("9"), len(b))), nil }

// Who reads the lines may go, and who wants an end gets it though nothing more comes.
func TestDetectEnds(t *testing.T) {
	cmd := ctsight(t, "detect", "--from", "-")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_, err = io.WriteString(in, scanCapture()+"1700000009000000000\tN\t99\ttcp\t192.0.2.7\t1\t10.0.0.1\t1\t-\t-\t-1\t1\t1\n")
	must(t, err)
	line, err := bufio.NewReader(out).ReadString('\n') // the pipe is still open
	must(t, err)
	if !strings.Contains(line, "scan") {
		t.Errorf("%q", line)
	}
	must(t, cmd.Process.Signal(syscall.SIGINT))
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGINT: %v", err)
	}

	cmd = ctsight(t, "detect", "--from", file(t, "x", scanCapture()))
	r, w, err := os.Pipe()
	must(t, err)
	must(t, r.Close())
	cmd.Stdout = w
	if err := cmd.Run(); err != nil {
		t.Errorf("nobody reads: %v", err)
	}
	must(t, w.Close())
}

// jq reads what is written, and every line has what the contract promises.
func TestDetectJQ(t *testing.T) {
	jq, err := exec.LookPath("jq")
	if err != nil {
		t.Skip("needs jq")
	}
	found := runCmd(t, ctsight(t, "detect", "--from", file(t, "x", scanCapture()), "-o", "json"))
	cmd := exec.Command(jq, "-r", `select(.state == "confirmed") | [.class, .shape, .source, .target.addr, (.evidence.samples | length), (.statistic >= .threshold)] | @tsv`)
	cmd.Stdin = strings.NewReader(found.stdout)
	r := runCmd(t, cmd)
	if want := "scan\tvertical\t192.0.2.7\t10.0.0.1\t3\ttrue\n"; r.code != 0 || !strings.HasPrefix(r.stdout, want) {
		t.Errorf("%+v, want %q of %s", r, want, found.stdout)
	}
}

// The id of a line leads to the finding whole, and to what every contact has counted.
func TestExplain(t *testing.T) {
	from := file(t, "x.ctr.tsv.gz", gzipped(t, scanCapture()))
	var f struct{ ID, Class string }
	lines := strings.Split(runCmd(t, ctsight(t, "detect", "--from", from, "-o", "json")).stdout, "\n")
	must(t, json.Unmarshal([]byte(lines[0]), &f))
	r := runCmd(t, ctsight(t, "explain", f.ID, "--from", from, "--steps", "3"))
	if r.code != exitDone || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	for _, w := range []string{
		"scan vertical confirmed feed [" + f.ID + "]", "10.0.0.1",
		"the evidence, 40 pieces", "... 34 more (--steps) ...",
		"2023-11-14T22:13:20.000Z refused    tcp 192.0.2.7:40000 > 10.0.0.1:1000 +1.386 ",
		"2023-11-14T22:13:20.039Z refused    tcp 192.0.2.7:40000 > 10.0.0.1:1039 +1.386 ",
	} {
		if !strings.Contains(r.stdout, w) {
			t.Errorf("does not say %q:\n%s", w, r.stdout)
		}
	}
	if n := strings.Count(r.stdout, " > 10.0.0.1:"); n != 6+3 { // and three examples
		t.Errorf("%d contacts:\n%s", n, r.stdout)
	}
	r = runCmd(t, ctsight(t, "explain", f.ID, "--from", from, "-o", "json"))
	var doc struct {
		Finding struct {
			ID       string
			Evidence struct{ Refused int }
		}
		Steps []struct {
			Contact struct{ Dport int }
			Tests   []struct {
				Key       string
				Statistic float64
			}
		}
		Left int `json:"steps_left_out"`
	}
	must(t, json.Unmarshal([]byte(r.stdout), &doc))
	if doc.Finding.ID != f.ID || doc.Finding.Evidence.Refused != 40 || len(doc.Steps) != 40 || doc.Left != 0 {
		t.Fatalf("%+v", doc)
	}
	last := 0.
	for i, s := range doc.Steps { // every one a failure more
		if s.Contact.Dport != 1000+i || len(s.Tests) == 0 || s.Tests[0].Key != "source" || s.Tests[0].Statistic <= last {
			t.Errorf("piece %d: %+v", i, s)
		}
		last = s.Tests[0].Statistic
	}
	oneError(t, runCmd(t, ctsight(t, "explain", "0123456789ab", "--from", from)), exitFailed, `"0123456789ab"`, "ctsight detect --from "+from)
	oneError(t, runCmd(t, ctsight(t, "explain", f.ID, "--from", file(t, "x", "nonsense\n"))), exitFailed, ":1: 1 columns")
}

// A feed has the lines of its form, in a file that is appended to or in place of the
// command's own.
func TestDetectFeed(t *testing.T) {
	from, to := file(t, "x", scanCapture()), filepath.Join(t.TempDir(), "feed")
	for format, says := range map[string]string{
		"json":  `"class":"scan"`,
		"eve":   `"event_type":`,
		"ecs":   `"@timestamp":`,
		"plain": " ctsight tell 192.0.2.7 class=scan shape=vertical state=confirmed ", // its source may be spoofed
	} {
		r := runCmd(t, ctsight(t, "detect", "--from", from, "--feed", to, "--feed-format", format))
		if r.code != exitDone || !strings.Contains(r.stdout, "scan vertical") {
			t.Errorf("%s: %+v", format, r)
		}
		file, err := os.ReadFile(to)
		must(t, err)
		if !strings.Contains(string(file), says) {
			t.Errorf("%s: %s", format, file)
		}
		r = runCmd(t, ctsight(t, "detect", "--from", from, "--feed", "-", "--feed-format", format))
		if r.code != exitDone || r.stdout == "" || !strings.HasSuffix(string(file), r.stdout) {
			t.Errorf("%s: stdout %q, file %q", format, r.stdout, file)
		}
	}
	oneError(t, runCmd(t, ctsight(t, "detect", "--from", from, "--feed", filepath.Join(from, "x"))), exitFailed, "feed")
}

// Live, a scan is found by looking at its contacts, and the end is clean.
func TestDetectLive(t *testing.T) {
	r := traffic(t, 20)
	cmd := ctsight(t, "detect", fmt.Sprint("netns ", r.R.Inode()), "-o", "json")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGABRT) })
	defer timer.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	scanned := make(chan error, 1)
	go func() { // until it is found: it takes a while to attach
		var err error
		for first := 2000; err == nil && ctx.Err() == nil; first += 60 {
			_, err = r.Scan(ctx, netlab.ClientV4, netlab.Sink(0), netlab.Ports{First: uint16(first), N: 60}, 60)
		}
		scanned <- err
	}()
	var found struct{ State, Class, Source string }
	// The other traffic, that nobody answers, may be a storm of retries first.
	for lines := bufio.NewScanner(out); (found.State != "confirmed" || found.Class == "retry_storm") && lines.Scan(); {
		must(t, json.Unmarshal(lines.Bytes(), &found))
	}
	if found.Class != "scan" || found.Source != netlab.ClientV4.String() {
		t.Errorf("%+v", found)
	}
	cancel()
	<-scanned
	must(t, cmd.Process.Signal(syscall.SIGINT))
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGINT: %v", err)
	}
}
