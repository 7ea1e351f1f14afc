package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// patience is how long to wait for what must happen on an emulated machine.
const patience = 60 * time.Second

// traffic makes n new connections a second in a router of its own until the
// test ends.
func traffic(t *testing.T, n float64) *netlab.Router {
	t.Helper()
	lab.NeedVM(t)
	for _, m := range []string{"nf_conntrack", "nf_conntrack_netlink", "nft_ct", "veth"} {
		_ = exec.Command("modprobe", m).Run() // built in, or the test will tell
	}
	r, err := netlab.NewRouter(netlab.Options{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		f := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.Addrs{First: netlab.Sink(0), N: 10},
			SPorts: netlab.Ports{First: 1024, N: 50000}, DPorts: netlab.OnePort(53), SpreadSources: true}
		_, err := r.SendFlows(ctx, f, netlab.SendOptions{Rate: n, Burst: 1})
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		must(t, r.Close())
	})
	return r
}

// --count ends after exactly so many lines, each of which is one JSON object
// with the fields that the contract promises always.
func TestTraceJSON(t *testing.T) {
	r := traffic(t, 50)
	res := runCmd(t, ctsight(t, "trace", "new", "-o", "json", "--count", "10"))
	if res.code != exitDone || res.stderr != "" {
		t.Errorf("exit code %d, stderr %q", res.code, res.stderr)
	}
	n := 0
	for line := range strings.Lines(res.stdout) {
		n++
		var e struct {
			Time  time.Time
			Event string
			NetNS event.NetNS
			Proto string
			Orig  struct {
				Src, Dst     string
				Sport, Dport uint16
			}
		}
		d := json.NewDecoder(strings.NewReader(line))
		must(t, d.Decode(&e))
		if _, err := d.Token(); err != io.EOF {
			t.Errorf("more than one value in a line: %q", line)
		}
		if e.Event != "new" || e.Proto != "udp" || e.NetNS != r.R.Inode() || e.Orig.Src != netlab.ClientV4.String() || e.Orig.Dport != 53 || e.Orig.Sport < 1024 {
			t.Errorf("%q", line)
		}
		if d := time.Since(e.Time); d < 0 || d > time.Minute {
			t.Errorf("the event is %v old", d)
		}
	}
	if n != 10 {
		t.Errorf("%d lines, want 10", n)
	}
}

func TestTraceFor(t *testing.T) {
	traffic(t, 50)
	start := time.Now()
	res := runCmd(t, ctsight(t, "trace", "--for", "2s"))
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("ended after %v", took)
	}
	if res.code != exitDone || res.stderr != "" {
		t.Errorf("exit code %d, stderr %q", res.code, res.stderr)
	}
	t.Logf("%d lines", strings.Count(res.stdout, "\n"))
	// A time that is over before everything is attached is no mistake either.
	if res := runCmd(t, ctsight(t, "trace", "--for", "1ms")); res.code != exitDone || res.stderr != "" {
		t.Errorf("--for 1ms: exit code %d, stderr %q", res.code, res.stderr)
	}
}

// What has happened is on the screen soon, also when nothing happens after it.
func TestLinesDoNotWait(t *testing.T) {
	r := traffic(t, 0.001)
	cmd := ctsight(t, "trace", "new", "proto", "icmp", "--log.level", "debug")
	out, err := cmd.StdoutPipe()
	must(t, err)
	errs, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGABRT) })
	defer timer.Stop()
	for sc := bufio.NewScanner(errs); sc.Scan() && !strings.Contains(sc.Text(), "attached"); {
	}
	const n = 10
	_, err = r.SendFlows(t.Context(), netlab.Flows{Proto: event.ProtoICMP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.OneAddr(netlab.Sink(0)),
		SPorts: netlab.Ports{First: 1, N: n}}, netlab.SendOptions{})
	must(t, err)
	lines := make(chan string, n)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
		close(lines)
	}()
	late := time.After(5 * time.Second)
	for i := range n {
		select {
		case <-lines:
		case <-late:
			t.Errorf("%d of %d lines after 5 s", i, n)
		}
		if t.Failed() {
			break
		}
	}
	must(t, cmd.Process.Signal(syscall.SIGINT))
	for range lines {
	}
	_, _ = io.Copy(io.Discard, errs)
	must(t, cmd.Wait())
}

// The reader of our output goes away: that is the normal end, without a word.
func TestClosedPipe(t *testing.T) {
	traffic(t, 50)
	cmd := ctsight(t, "trace", "new")
	out, err := cmd.StdoutPipe()
	must(t, err)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	must(t, cmd.Start())
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGABRT) })
	defer timer.Stop()
	if !bufio.NewScanner(out).Scan() {
		t.Error("no line")
	}
	must(t, out.Close())
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitDone || errs.Len() > 0 {
		t.Errorf("%v, stderr %q", cmd.ProcessState, &errs)
	}
}

func TestHead(t *testing.T) {
	traffic(t, 50)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("bash", "-c", `"$0" trace new | head -1; echo "${PIPESTATUS[@]}"`, self)
	cmd.Env = append(os.Environ(), asCtsight+"=1")
	res := runCmd(t, cmd)
	lines := strings.Split(strings.TrimSpace(res.stdout), "\n")
	if len(lines) != 2 || lines[1] != "0 0" || res.stderr != "" {
		t.Errorf("%+v", res)
	}
}

// A disk that is full is an error of one line.
func TestOutputFails(t *testing.T) {
	traffic(t, 50)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		must(t, exec.Command("mknod", "/dev/full", "c", "1", "7").Run())
		full, err = os.OpenFile("/dev/full", os.O_WRONLY, 0)
	}
	must(t, err)
	defer full.Close()
	cmd := ctsight(t, "trace", "new", "--for", "20s")
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &errs
	_ = cmd.Run()
	oneError(t, result{code: cmd.ProcessState.ExitCode(), stderr: errs.String()}, exitFailed, "no space left")
}

func TestDropsJSON(t *testing.T) {
	traffic(t, 50)
	res := runCmd(t, ctsight(t, "drops", "-o", "json", "--for", "2s"))
	var doc map[string]any
	if err := json.Unmarshal([]byte(res.stdout), &doc); err != nil || res.code != exitDone || res.stderr != "" {
		t.Errorf("%v: %+v", err, res)
	}
	for _, field := range []string{"from", "to", "backend", "drops", "totals", "kernel", "balance", "loss"} {
		if _, ok := doc[field]; !ok {
			t.Errorf("no field %s", field)
		}
	}
}

// A backend that sees no invalid packet says so when it is asked for them.
func TestInvalidNotOffered(t *testing.T) {
	traffic(t, 50)
	res := runCmd(t, ctsight(t, "trace", "--invalid", "--for", "1s", "--backend", "netlink"))
	if res.code != exitDone || strings.Count(res.stderr, "\n") != 1 || !strings.Contains(res.stderr, "does not tell of invalid packets") {
		t.Errorf("exit code %d, stderr %q", res.code, res.stderr)
	}
}

// TestNoBTF hides the kernel's types: what is left says so in one line.
func TestNoBTF(t *testing.T) {
	lab.NeedVM(t)
	self, err := os.Executable()
	must(t, err)
	for _, args := range []string{"trace --for 1s --backend fentry", "trace --for 1s --backend kprobe"} {
		cmd := exec.Command("unshare", "-m", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec "+self+" "+args)
		cmd.Env = append(os.Environ(), asCtsight+"=1")
		oneError(t, runCmd(t, cmd), exitCannot, "BTF")
	}
}

// TestLockdown runs where the kernel was booted with lockdown=integrity, which
// forbids nothing, or lockdown=confidentiality, which leaves only ctnetlink
// (labvm test -append lockdown=integrity). make test boots both.
func TestLockdown(t *testing.T) {
	lab.NeedVM(t)
	mode := probe.Lockdown()
	if mode == "none" || mode == "" {
		t.Skip("needs a kernel booted with lockdown=integrity or lockdown=confidentiality: run `make test`")
	}
	if out, err := exec.Command("modprobe", "nf_conntrack").CombinedOutput(); err != nil {
		t.Fatalf("modprobe: %v: %s", err, out)
	}
	const why = "lockdown=confidentiality"
	backend, said, lines := "fentry", "", 0
	if mode == "confidentiality" {
		backend, said, lines = "netlink", why, 1
	}
	for _, args := range [][]string{{"trace", "--for", "1s"}, {"drops", "--for", "1s"}} {
		res := runCmd(t, ctsight(t, args...))
		if res.code != exitDone || strings.Count(res.stderr, "\n") != lines || !strings.Contains(res.stderr, said) {
			t.Errorf("%s: exit code %d, stderr %q", args, res.code, res.stderr)
		}
	}
	doctor := runCmd(t, ctsight(t, "doctor"))
	if doctor.code != exitDone || !strings.HasPrefix(doctor.stdout, "backend   "+backend+": ") ||
		!strings.Contains(doctor.stdout, said) || strings.Contains(doctor.stdout, "differs") {
		t.Errorf("%+v", doctor)
	}
	for _, b := range []string{"fentry", "kprobe", "netfilter"} {
		res := runCmd(t, ctsight(t, "trace", "--for", "1s", "--backend", b))
		if mode == "confidentiality" {
			oneError(t, res, exitCannot, why, "boot with lockdown=integrity")
		} else if res.code != exitDone {
			t.Errorf("%s: %+v", b, res)
		}
	}
}
