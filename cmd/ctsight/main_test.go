package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// asCtsight makes the test binary be ctsight.
const asCtsight = "CTSIGHT_TEST_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(asCtsight) != "" {
		main()
		return
	}
	if a := os.Getenv(asAttacker); a != "" {
		attackAs(a)
		return
	}
	os.Exit(m.Run())
}

// ctsight returns a command that runs this very program.
func ctsight(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asCtsight+"=1", "NO_COLOR=1")
	return cmd
}

// result is what a finished ctsight has said.
type result struct {
	code           int
	stdout, stderr string
}

// runCmd runs a command to its end; one that does not end by itself is made to
// show where it hangs.
func runCmd(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second // for children of its own that hold the pipe
	must(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGABRT) })
	defer timer.Stop()
	err := cmd.Wait()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// oneError asserts an exit code and exactly one line of error, which begins
// with the program's name.
func oneError(t testing.TB, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "ctsight: ") || !strings.HasSuffix(r.stderr, "\n") {
		t.Errorf("want one line of error, got %q", r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("%q does not say %q", r.stderr, w)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"nonsense"}, `unknown command "nonsense"`},
		{[]string{"trace", "--nonsense"}, "--nonsense"},
		{[]string{"--nonsense"}, "--nonsense"},
		{[]string{"trace", "-o"}, "-o"},
		{[]string{"trace", "-o", "xml"}, "text or json"},
		{[]string{"trace", "--for", "long"}, "--for"},
		{[]string{"trace", "--count", "-1"}, "--count"},
		{[]string{"drops", "--top", "x"}, "--top"},
		{[]string{"trace", "--backend", "luck"}, "fentry"},
		{[]string{"trace", "--log.level", "loud"}, "debug"},
		{[]string{"trace", "--log.format", "xml"}, "text or json"},
		{[]string{"doctor", "-o", "xml"}, "text or json"},
		{[]string{"trace", "src", "10.0.0."}, "column 5"},
		{[]string{"drops", "src 10.0.0.1 and ("}, "column 19"},
		{[]string{"trace", "dport 99999"}, "column 7"},
		{[]string{"trace", "--netns", "no-such-netns"}, "no-such-netns"},
		{[]string{"trace", "--netns", "1"}, "no such network namespace"},
		{[]string{"trace", "netns no-such-netns"}, "column 7"},
		{[]string{"doctor", "extra"}, "extra"},
		{[]string{"reasons", "extra"}, "extra"},
		{[]string{"detect", "--from", "x", "--state", "guilty"}, "suspect, confirmed, cleared"},
		{[]string{"detect", "--feed-format", "xml"}, "eve"},
		{[]string{"detect", "--from", "x", "--invalid"}, "no packets"},
		{[]string{"detect", "--from", "x", "--feed-nft"}, "not now"},
		{[]string{"detect", "--from", os.DevNull, "--netns", "1"}, "no network namespaces"},
		{[]string{"detect", "--from", "x", "dport 99999"}, "column 7"},
		{[]string{"report"}, "which capture"},
		{[]string{"report", "-", "-"}, "read once"},
		{[]string{"report", "-", "--compare", "-"}, "read once"},
		{[]string{"report", "x", "--format", "pdf"}, "html, md"},
		{[]string{"report", "x", "-o", ""}, "a file, or -"},
		{[]string{"report", "x", "--filter", "dport 99999"}, "column 7"},
		{[]string{"explain", "--from", "x"}, "which finding"},
		{[]string{"explain", "0123456789ab"}, "--from FILE"},
		{[]string{"explain", "0123456789ab", "--from", "-"}, "twice"},
		{[]string{"explain", "0123456789ab", "--from", "x", "--steps", "-1"}, "--steps -1"},
		{[]string{"relief", "nonsense"}, "nonsense"},
		{[]string{"relief", "set", "nf_conntrack_max", "--for", "1h", "--reason", "x"}, "nf_conntrack_max=524288"},
		{[]string{"relief", "set", "kernel.core_pattern=1", "--for", "1h", "--reason", "x"}, "no sysctl that relief changes"},
		{[]string{"relief", "set", "--for", "1h", "--reason", "x"}, "what to set"},
		{[]string{"relief", "set", "udp_timeout=10", "--for", "1h", "--reason", "x", "--share", "a"}, "--share"},
		{[]string{"relief", "set", "udp_timeout=10", "--for", "1h", "--reason", "x", "--netns", "no-such-netns"}, "no-such-netns"},
		{[]string{"relief", "revert"}, "--all"},
		{[]string{"relief", "revert", "01234567", "--dir", "/proc"}, "no change"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			r := runCmd(t, ctsight(t, tc.args...))
			oneError(t, r, exitUsage, tc.says)
			if r.stdout != "" {
				t.Errorf("stdout %q, data only", r.stdout)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"", "help", "trace --help", "help trace", "top --help", "triage --help", "drops --help", "detect --help", "explain --help", "plan --help", "report --help", "doctor --help", "reasons --help", "relief --help", "relief set --help", "relief expire --help"} {
		t.Run(args, func(t *testing.T) {
			r := runCmd(t, ctsight(t, strings.Fields(args)...))
			if r.code != exitDone || r.stderr != "" {
				t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
			}
			name := strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace("help "+args), " ", "-"), "--", "-")
			golden(t, name, r.stdout)
		})
	}
}

// The list of reasons and causes is the user's manual of them.
func TestReasons(t *testing.T) {
	r := runCmd(t, ctsight(t, "help", "reasons"))
	if r.code != exitDone || r.stderr != "" {
		t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
	}
	for _, w := range []string{"table_full", "nat_exhausted", "clash_merged", "early_drop_gc", "user_flush", "ruleset_new"} {
		if !strings.Contains(r.stdout, w) {
			t.Errorf("does not tell of %s", w)
		}
	}
	golden(t, "reasons", r.stdout)
}

func TestHelpOfNothing(t *testing.T) {
	oneError(t, runCmd(t, ctsight(t, "help", "nonsense")), exitUsage, "nonsense")
}

func TestVersion(t *testing.T) {
	r := runCmd(t, ctsight(t, "--version"))
	if r.code != exitDone || r.stderr != "" || !strings.HasPrefix(r.stdout, "ctsight ") || strings.Count(r.stdout, "\n") != 1 {
		t.Errorf("%+v", r)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got != string(want) {
		t.Errorf("differs from %s (go test ./cmd/ctsight -update rewrites it):\n%s", file, got)
	}
}

// Without privileges: exit code 3, what is missing and the remedy in one line.
func TestNotRoot(t *testing.T) {
	lab.NeedRoot(t)                          // to be somebody else
	dir, err := os.MkdirTemp("", "ctsight-") // not t.TempDir: nobody may enter it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	binary := filepath.Join(dir, "ctsight")
	must(t, os.WriteFile(binary, self, 0o755))
	if lab.InVM() { // where it is missing they wait for it
		_ = exec.Command("modprobe", "nf_conntrack").Run()
	}
	for _, args := range []string{"trace", "trace --backend fentry", "trace --backend kprobe", "trace --backend netfilter", "trace --backend netlink", "drops", "detect", "doctor", "doctor -o json"} {
		t.Run(args, func(t *testing.T) {
			cmd := exec.Command(binary, strings.Fields(args)...)
			cmd.Env, cmd.Dir = []string{asCtsight + "=1"}, "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			r := runCmd(t, cmd)
			oneError(t, r, exitCannot, "root", "CAP_")
			if strings.HasPrefix(args, "doctor") == (r.stdout == "") {
				t.Errorf("stdout %q", r.stdout)
			}
		})
	}
}
