package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "500M": 500 << 20, "2G": 2 << 30, "3k": 3 << 10, "1T": 1 << 40, "0": 0, "-1": 0, "M": 0, "": 0, "1.5G": 0, "9e9": 0,
		"99999999999T": 0, "1 G": 0, "1GB": 0} {
		n, err := parseSize(s)
		if n != want || (err == nil) != (want > 0) {
			t.Errorf("%q is %d, %v; want %d", s, n, err, want)
		}
	}
}

// TestRecord: what a router does is recorded and comes out of trace --from: as many
// connections as were made, and what happened to each; detect --from finds the scan that
// was among them. A file that is there is not written over.
func TestRecord(t *testing.T) {
	onHost(t)
	r, err := netlab.NewRouter(netlab.Options{Name: "rec"})
	must(t, err)
	defer func() { must(t, r.Close()) }()
	path := filepath.Join(t.TempDir(), "a.ctsight")
	var log bytes.Buffer
	cmd := ctsight(t, "record", "-o", path, "--netns", "rec-router", "--for", "9s", "--log.level", "debug")
	cmd.Stderr = &log
	must(t, cmd.Start())
	eventually(t, "it traces", func() bool { fi, err := os.Stat(path); return err == nil && fi.Size() > 100 })
	time.Sleep(500 * time.Millisecond)
	const scanned = 60
	n, err := r.SendFlows(t.Context(), netlab.Flows{Proto: event.ProtoTCP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.OneAddr(netlab.Sink(1)),
		SPorts: netlab.OnePort(4000), DPorts: netlab.Ports{First: 100, N: scanned}}, netlab.SendOptions{})
	must(t, err)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &log)
	}
	out, err := ctsight(t, "trace", "--from", path, "new", "-o", "json").Output()
	must(t, err)
	ports := map[int]bool{}
	for line := range strings.Lines(string(out)) {
		var e struct {
			Event string
			Orig  struct{ Dport int }
		}
		must(t, json.Unmarshal([]byte(line), &e))
		ports[e.Orig.Dport] = true
	}
	if len(ports) != scanned {
		t.Errorf("%d sent (%v), %d ports in the recording: %s", scanned, n, len(ports), &log)
	}
	out, err = ctsight(t, "detect", "--from", path, "-o", "json").Output()
	must(t, err)
	if !strings.Contains(string(out), `"class":"scan"`) {
		t.Errorf("detect --from finds %s", out)
	}
	dir := filepath.Join(t.TempDir(), "ring")
	if b, err := ctsight(t, "record", "-o", dir, "--ring", "1M", "--for", "2s", "--netns", "rec-router").CombinedOutput(); err != nil {
		t.Errorf("a ring: %v, %s", err, b)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.ctsight"))
	must(t, err)
	if len(files) != 1 {
		t.Errorf("in the ring are %q", files)
	} else if b, err := ctsight(t, "detect", "--from", files[0]).CombinedOutput(); err != nil || strings.Contains(string(b), "no end") {
		t.Errorf("what is in the ring: %v, %s", err, b)
	}
	if b, err := ctsight(t, "trace", "--from", dir).CombinedOutput(); err != nil {
		t.Errorf("the directory: %v, %s", err, b)
	}
	if b, err := ctsight(t, "trace", "--from", t.TempDir()).CombinedOutput(); err == nil || !strings.Contains(string(b), "no recording is in there") {
		t.Errorf("an empty directory: %v, %s", err, b)
	}
	for _, bad := range [][]string{{"--ring", "1M", "--size", "1M"}, {"--age", "1h"}, {"--ring", "10"}, {"--ring", "x"}} {
		if b, err := ctsight(t, append([]string{"record", "-o", dir}, bad...)...).CombinedOutput(); err == nil || strings.Count(string(b), "\n") != 1 {
			t.Errorf("%q: %v, %s", bad, err, b)
		}
	}
	again := ctsight(t, "record", "-o", path, "--for", "1s")
	if b, err := again.CombinedOutput(); err == nil || !strings.Contains(string(b), "is there already") {
		t.Errorf("a second recording to the same file: %v, %s", err, b)
	}
}
