package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/sandbox"
)

// A scan that is for a human: who serves names the recording that is kept around it, in
// all that tells of it, and it has the finding. With Landlock where this kernel has it, so
// that nothing can be written but that directory and the feed's.
func TestServeFlight(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	scanner := netip.MustParseAddr("10.7.0.1")
	r, err := netlab.NewRouter(netlab.Options{Name: "flight", ClientNets: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}})
	must(t, err)
	defer func() { must(t, r.Close()) }()
	dir := t.TempDir()
	ring, config, feed := filepath.Join(dir, "ring"), filepath.Join(dir, "c.yml"), filepath.Join(dir, "feed", "f.json")
	must(t, os.Mkdir(filepath.Dir(feed), 0o755))
	landlock := "off"
	if sandbox.LeavesLinks() {
		landlock = "on"
	}
	write(t, config, fmt.Sprintf("flight: {dir: ring, before: 1m, after: 10s}\nfeed: {file: %s}\nsandbox: {landlock: %s}\n", feed, landlock))
	s := sidecar.Start(t, ctsight(t), "--config.file", config).Tracing(t)
	eventually(t, "it records", func() bool { return s.Values(t)["flight_recorder_segments"] == 1 })
	_, err = r.Scan(t.Context(), scanner, netlab.ServerV4, netlab.Ports{First: 3000, N: 200}, 2000)
	must(t, err)
	recording, id := "", ""
	eventually(t, "the scan is told with its recording", func() bool {
		for line := range strings.Lines(string(s.Get(t, "/api/v1/findings"))) {
			var f struct{ ID, Class, Source, Recording string }
			must(t, json.Unmarshal([]byte(line), &f))
			if f.Class == "scan" && f.Source == scanner.String() {
				recording, id = f.Recording, f.ID
			}
		}
		return recording != "" && s.Values(t)["flight_recorder_kept"] > 0
	})
	if filepath.Dir(filepath.Dir(recording)) != ring || !strings.HasSuffix(recording, id) {
		t.Errorf("%s is kept in %s", id, recording)
	}
	doc := string(s.Get(t, "/"))
	if strings.Count(doc, "ctsight report --from "+recording) != 2 || !strings.Contains(doc, "Flight recorder") {
		t.Error("the page does not name it with the finding and among those that are kept")
	}
	told, err := os.ReadFile(feed)
	must(t, err)
	if !strings.Contains(string(told), recording) {
		t.Errorf("the feed does not name it: %s", told)
	}
	v := s.Values(t)
	if v["flight_recorder_failing"] != 0 || v["flight_recorder_lost_events_total"] != 0 || v["flight_recorder_bytes"] < 100 || v["flight_recorder_events_total"] < 200 {
		t.Errorf("%v; %s", v, s.Said())
	}
	s.Stop(t)
	found := runCmd(t, ctsight(t, "detect", "--from", recording, "-o", "json", "--log.level", "error"))
	if !strings.Contains(found.stdout, `"id":"`+id+`"`) || strings.Contains(found.stdout, `"recording"`) {
		t.Errorf("of the recording: %+v", found)
	}
	report := runCmd(t, ctsight(t, "report", "--from", recording, "-o", filepath.Join(dir, "r.html"), "--log.level", "error"))
	if report.code != exitDone {
		t.Errorf("a report of it: %+v", report)
	}
}

// A serve that was killed leaves the ring to the next one, whole; two at a time are
// refused, and so is a directory that cannot be one.
func TestServeFlightAgain(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	ring := filepath.Join(t.TempDir(), "ring")
	s := sidecar.Start(t, ctsight(t), "--flight.dir", ring).Tracing(t)
	eventually(t, "it records", func() bool { return s.Values(t)["flight_recorder_bytes"] > 0 })
	oldest := s.Values(t)["flight_recorder_oldest_timestamp_seconds"]
	second := runCmd(t, ctsight(t, "serve", "--web.listen-address", sidecar.FreeAddress(t), "--flight.dir", ring))
	oneError(t, second, exitFailed, "flight.dir", "another ctsight records to this directory")
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	oneError(t, runCmd(t, ctsight(t, "serve", "--web.listen-address", sidecar.FreeAddress(t), "--flight.dir", file)), exitFailed, "flight.dir", "not a directory")
	others := t.TempDir() // a root that has given up its capabilities owns no files of others
	must(t, os.Chown(others, 65534, 65534))
	denied := runCmd(t, ctsight(t, "serve", "--web.listen-address", sidecar.FreeAddress(t), "--flight.dir", others))
	said := strings.SplitAfter(strings.TrimSuffix(denied.stderr, "\n"), "\n")
	denied.stderr = said[len(said)-1] + "\n" // behind what it has given up
	oneError(t, denied, exitCannot, "flight.dir", "permission denied: give it to the user of ctsight")
	must(t, s.Cmd.Process.Kill())
	_ = s.Wait()

	next := sidecar.Start(t, ctsight(t), "--flight.dir", ring).Tracing(t)
	eventually(t, "it takes over", func() bool { return next.Values(t)["flight_recorder_segments"] == 2 })
	if v := next.Values(t); v["flight_recorder_oldest_timestamp_seconds"] != oldest || v["flight_recorder_failing"] != 0 {
		t.Errorf("before it began %v: %v", oldest, v)
	}
	next.Stop(t)
	files, err := filepath.Glob(filepath.Join(ring, "*.ctsight"))
	must(t, err)
	for _, f := range files {
		if r := runCmd(t, ctsight(t, "detect", "--from", f)); r.code != exitDone {
			t.Errorf("%s: %+v", f, r)
		}
	}
	if r := runCmd(t, ctsight(t, "detect", "--from", ring)); r.code != exitDone || strings.Contains(r.stderr, "no end") {
		t.Errorf("the ring: %+v", r)
	}
}

// A disk that is full, and one that is gone: serve is ready all the while, says it once,
// counts what is missing, and goes on by itself.
func TestServeFlightFull(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip("no unshare: apt-get install util-linux")
	}
	dir := t.TempDir()
	s := behind(t, "unshare", "--mount", "--", "sh", "-ec", `mount -t tmpfs -o size=1m tmpfs "$0"; exec "$@" --flight.dir "$0"/ring`, dir).Tracing(t)
	inside := filepath.Join(fmt.Sprintf("/proc/%d/root", s.Cmd.Process.Pid), dir)
	failing := func() bool { return s.Values(t)["flight_recorder_failing"] == 1 }
	eventually(t, "it records", func() bool { return s.Values(t)["flight_recorder_bytes"] > 0 })
	fill := func() {
		f, err := os.OpenFile(filepath.Join(inside, "other"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
	}
	eventually(t, "the disk is full", func() bool { fill(); return failing() })
	brief(t, 3)
	if s.Code("/-/ready") != 200 {
		t.Error("not ready")
	}
	time.Sleep(3 * time.Second) // in which it tries again
	must(t, os.Remove(filepath.Join(inside, "other")))
	eventually(t, "it records again", func() bool { return !failing() })
	eventually(t, "and says so", func() bool { return strings.Contains(s.Said(), "it records again") })
	if said := s.Said(); strings.Count(said, "cannot record or keep") != 1 || !strings.Contains(said, unix.ENOSPC.Error()) {
		t.Error(said)
	}
	must(t, s.Cmd.Process.Signal(syscall.SIGTERM))
	if err := s.Wait(); err != nil {
		t.Errorf("%v: %s", err, s.Said())
	}
}
