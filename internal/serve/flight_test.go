package serve

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/record/flight"
)

// A directory that cannot be recorded to is told before anything begins, with what to do.
func TestFlightRefuses(t *testing.T) {
	dir := t.TempDir()
	taken, err := flight.Take(flight.Config{Dir: filepath.Join(dir, "taken")})
	must(t, err)
	defer taken.Close()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for name, want := range map[string]string{"taken": "another ctsight records to this directory: give each one its own", "file": "flight.dir: mkdir"} {
		c := config.Default()
		c.Flight.Dir = filepath.Join(dir, name)
		if _, err := newServer(Options{Load: func() (*config.Config, error) { return c, nil }, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := flightError(&os.PathError{Op: "mkdir", Path: "/x", Err: os.ErrPermission}); err.Error() != "flight.dir: mkdir /x: permission denied: give it to the user of ctsight (chown), or leave it out" || !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}

// What Landlock has to leave is the directory, and nothing of it without one.
func TestFlightIsLeft(t *testing.T) {
	s, _, _, _ := feedServer(t, "flight: {dir: "+t.TempDir()+"/ring}\n")
	if o := s.opened(s.cfg.Config()); len(o.Keep) != 1 || o.Keep[0] != s.cfg.Config().Flight.Dir || len(o.Write) > 0 {
		t.Errorf("%+v", o)
	}
	if o := s.opened(config.Default()); len(o.Keep) > 0 {
		t.Errorf("%+v", o)
	}
	must(t, s.flight.check())
	if f := s.keeperConfig(s.cfg.Config()).Flight; f == nil || f.Before != 5*time.Minute || f.After != 2*time.Minute {
		t.Errorf("%+v", f)
	}
}

type shownFlight struct{ s *agg.Flight }

func (shownFlight) Describe(ch chan<- *prometheus.Desc)   { (&flights{}).Describe(ch) }
func (f shownFlight) Collect(ch chan<- prometheus.Metric) { collectFlight(f.s, ch) }

// Names, types and values of its metrics.
func TestFlightMetrics(t *testing.T) {
	var kept []agg.Recording // the oldest first: of twelve the newest ten have a name
	for i := range 12 {
		kept = append(kept, agg.Recording{Name: fmt.Sprintf("20261130T0614%02dZ-scan-9e6517915acc", i), Bytes: int64(i)})
	}
	named := ""
	for _, k := range kept[2:] {
		named += fmt.Sprintf("ctsight_flight_recorder_recording_bytes{recording=%q} %d\n", k.Name, k.Bytes)
	}
	c := shownFlight{&agg.Flight{Oldest: time.UnixMilli(1763925600250), Bytes: 1 << 20, Segments: 7, Events: 1000, Lost: 12, Err: "full", Omitted: 2, Kept: kept}}
	want := `
# HELP ctsight_flight_recorder_bytes Size of the ring of the flight recorder; bytes.
# TYPE ctsight_flight_recorder_bytes gauge
ctsight_flight_recorder_bytes 1.048576e+06
# HELP ctsight_flight_recorder_events_total Events that the flight recorder has recorded; a count.
# TYPE ctsight_flight_recorder_events_total counter
ctsight_flight_recorder_events_total 1000
# HELP ctsight_flight_recorder_failing 1 while the flight recorder cannot record or keep what it should, else 0; a state.
# TYPE ctsight_flight_recorder_failing gauge
ctsight_flight_recorder_failing 1
# HELP ctsight_flight_recorder_kept Recordings that are kept; a count of now.
# TYPE ctsight_flight_recorder_kept gauge
ctsight_flight_recorder_kept 12
# HELP ctsight_flight_recorder_kept_bytes Size of the recordings that are kept, those in the ring still among them; bytes.
# TYPE ctsight_flight_recorder_kept_bytes gauge
ctsight_flight_recorder_kept_bytes 66
# HELP ctsight_flight_recorder_lost_events_total Events that the flight recorder had no room or time for; a count.
# TYPE ctsight_flight_recorder_lost_events_total counter
ctsight_flight_recorder_lost_events_total 12
# HELP ctsight_flight_recorder_oldest_timestamp_seconds How far back the ring of the flight recorder reaches, Unix time in seconds.
# TYPE ctsight_flight_recorder_oldest_timestamp_seconds gauge
ctsight_flight_recorder_oldest_timestamp_seconds 1.76392560025e+09
# HELP ctsight_flight_recorder_omitted_total Findings and thresholds around which nothing was kept, since too many came within an hour; a count.
# TYPE ctsight_flight_recorder_omitted_total counter
ctsight_flight_recorder_omitted_total 2
# HELP ctsight_flight_recorder_recording_bytes Size of the newest recordings that are kept, by name; bytes.
# TYPE ctsight_flight_recorder_recording_bytes gauge
` + named + `
# HELP ctsight_flight_recorder_segments Files in the ring of the flight recorder; a count.
# TYPE ctsight_flight_recorder_segments gauge
ctsight_flight_recorder_segments 7
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	s, _, _, _ := feedServer(t, "")
	if n := testutil.CollectAndCount(s.flight); n != 0 {
		t.Errorf("%d series without a recorder", n)
	}
}

// That it fails, and that it goes on, is said once each.
func TestFlightSaysOnce(t *testing.T) {
	var log bytes.Buffer
	w := flightWatch{log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, s := range []*agg.Flight{nil, {}, {Err: "no room", Lost: 3}, {Err: "no room", Lost: 5}, {Err: "no room at all", Lost: 8}, {Lost: 10}, {Lost: 10}} {
		w.look(s)
	}
	if text := log.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, `level=WARN`) || !strings.Contains(text, `answer="no room"`) || !strings.Contains(text, "lost=10") {
		t.Error(text)
	}
}
