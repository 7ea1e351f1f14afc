package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record/flight"
	"github.com/ctsight/ctsight/internal/view"
)

// flights is the flight recorder: who takes the directory, and tells how it goes.
type flights struct {
	*server
	dir *flight.Dir // nil without
}

// fileSpan is how long a file of the ring is filled at most: what is kept is whole files.
const fileSpan = 5 * time.Minute

// newFlights takes the directory, so that one that cannot be written is known before
// anything is attached.
func (s *server) newFlights(c *config.Config) (*flights, error) {
	f := &flights{server: s}
	if c.Flight.Dir == "" {
		return f, nil
	}
	var err error
	f.dir, err = flight.Take(flight.Config{Dir: c.Flight.Dir, Bytes: int64(c.Flight.Size), Age: c.Flight.Age, Span: fileSpan, Kept: int64(c.Flight.Kept)})
	if err != nil {
		return nil, flightError(err)
	}
	return f, nil
}

// flightError says what to do.
func flightError(err error) error {
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: give it to the user of ctsight (chown), or leave it out", err)
	}
	return fmt.Errorf("flight.dir: %w", err)
}

func (f *flights) config(c *config.Config) *pipeline.Flight {
	if f.dir == nil {
		return nil
	}
	return &pipeline.Flight{Dir: f.dir, Before: c.Flight.Before, After: c.Flight.After, Tool: f.o.Version}
}

// check sees whether the directory can still be written once privileges are given up: root
// without CAP_DAC_OVERRIDE owns no files but its own.
func (f *flights) check() error {
	if f.dir == nil {
		return nil
	}
	if err := f.dir.Writable(); errors.Is(err, os.ErrPermission) {
		return flightError(err)
	}
	return nil
}

// run watches it until ctx ends.
func (f *flights) run(ctx context.Context) error {
	if f.dir == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	w := flightWatch{log: f.log}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.look(f.keeper.Flight())
		}
	}
}

// flightWatch says once when recording stops, and once when it goes on.
type flightWatch struct {
	log    *slog.Logger
	failed bool
	lost   uint64 // when all was well
}

func (w *flightWatch) look(s *agg.Flight) {
	switch {
	case s == nil || s.Err != "" && w.failed:
	case s.Err == "" && !w.failed:
		w.lost = s.Lost
	case s.Err != "":
		w.failed = true
		w.log.Warn("flight recorder: it cannot record or keep what it should; it tries again, and what is missing is counted", "answer", view.Text(s.Err))
	default:
		w.failed = false
		w.log.Info("flight recorder: it records again", "lost", s.Lost-w.lost)
	}
}

var (
	flightEventsDesc = prometheus.NewDesc("ctsight_flight_recorder_events_total",
		"Events that the flight recorder has recorded; a count.", nil, nil)
	flightLostDesc = prometheus.NewDesc("ctsight_flight_recorder_lost_events_total",
		"Events that the flight recorder had no room or time for; a count.", nil, nil)
	flightBytesDesc = prometheus.NewDesc("ctsight_flight_recorder_bytes",
		"Size of the ring of the flight recorder; bytes.", nil, nil)
	flightSegmentsDesc = prometheus.NewDesc("ctsight_flight_recorder_segments",
		"Files in the ring of the flight recorder; a count.", nil, nil)
	flightOldestDesc = prometheus.NewDesc("ctsight_flight_recorder_oldest_timestamp_seconds",
		"How far back the ring of the flight recorder reaches, Unix time in seconds.", nil, nil)
	flightKeptDesc = prometheus.NewDesc("ctsight_flight_recorder_kept",
		"Recordings that are kept; a count of now.", nil, nil)
	flightKeptBytesDesc = prometheus.NewDesc("ctsight_flight_recorder_kept_bytes",
		"Size of the recordings that are kept, those in the ring still among them; bytes.", nil, nil)
	flightRecordingDesc = prometheus.NewDesc("ctsight_flight_recorder_recording_bytes",
		"Size of the newest recordings that are kept, by name; bytes.", []string{"recording"}, nil)
	flightOmittedDesc = prometheus.NewDesc("ctsight_flight_recorder_omitted_total",
		"Findings and thresholds around which nothing was kept, since too many came within an hour; a count.", nil, nil)
	flightFailingDesc = prometheus.NewDesc("ctsight_flight_recorder_failing",
		"1 while the flight recorder cannot record or keep what it should, else 0; a state.", nil, nil)
)

// Describe implements prometheus.Collector.
func (f *flights) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{flightEventsDesc, flightLostDesc, flightBytesDesc, flightSegmentsDesc, flightOldestDesc,
		flightKeptDesc, flightKeptBytesDesc, flightRecordingDesc, flightOmittedDesc, flightFailingDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector: nothing without a recorder.
func (f *flights) Collect(ch chan<- prometheus.Metric) {
	if s := f.keeper.Flight(); s != nil {
		collectFlight(s, ch)
	}
}

func collectFlight(s *agg.Flight, ch chan<- prometheus.Metric) {
	kept, failing := int64(0), 0.0
	for _, k := range s.Kept {
		kept += k.Bytes
	}
	if s.Err != "" {
		failing = 1
	}
	for _, m := range []struct {
		desc *prometheus.Desc
		kind prometheus.ValueType
		v    float64
	}{
		{flightEventsDesc, prometheus.CounterValue, float64(s.Events)}, {flightLostDesc, prometheus.CounterValue, float64(s.Lost)},
		{flightBytesDesc, prometheus.GaugeValue, float64(s.Bytes)}, {flightSegmentsDesc, prometheus.GaugeValue, float64(s.Segments)},
		{flightOldestDesc, prometheus.GaugeValue, float64(s.Oldest.UnixMilli()) / 1000},
		{flightKeptDesc, prometheus.GaugeValue, float64(len(s.Kept))}, {flightKeptBytesDesc, prometheus.GaugeValue, float64(kept)},
		{flightOmittedDesc, prometheus.CounterValue, float64(s.Omitted)}, {flightFailingDesc, prometheus.GaugeValue, failing},
	} {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.v)
	}
	for _, k := range s.Kept[max(0, len(s.Kept)-recordingsNamed):] {
		ch <- prometheus.MustNewConstMetric(flightRecordingDesc, prometheus.GaugeValue, float64(k.Bytes), k.Name)
	}
}

// recordingsNamed is how many of those that are kept have a series, the newest ones: an
// alert can say which it is.
const recordingsNamed = 10
