package pipeline

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/cputime"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// BenchmarkReplayCapture is what an event of a recording costs on one core: to read it, and
// with the detectors. Clients of a gateway that come and go, 20,000 a second, with looks
// and states. The issue asks for two million events a second: 500 ns.
func BenchmarkReplayCapture(b *testing.B) {
	const seconds, perSecond = 20, 20_000
	var out bytes.Buffer
	w, err := capture.NewWriter(&out, capture.Header{Seed: 7, Start: 1})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	n := 0
	for i := range seconds * perSecond {
		at := event.Ktime(i+1) * event.Ktime(time.Second) / perSecond
		e := event.Event{Kind: event.New, Time: at, NetNS: 1, Ptr: 0xffff888000000000 + uint64(i+1)<<8, Orig: event.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(40)), byte(r.Uint32())}),
			Dst: netip.AddrFrom4([4]byte{93, 1, 1, byte(r.ExpFloat64() * 20)}), Sport: uint16(r.Uint32()), Dport: 443, Proto: event.ProtoTCP}}
		gone := e
		gone.Kind, gone.Cause, gone.Status, gone.HasLifetime = event.Destroy, event.TimeoutGC, event.SeenReply|event.Assured, true
		events := []event.Event{e, gone}
		n += len(events)
		if err := w.Events(events); err != nil {
			b.Fatal(err)
		}
		if i%(perSecond/10) == 0 {
			err = errors.Join(w.JSON(capture.Looks, at, lookStep{Due: true}), w.JSON(capture.Looks, at, lookStep{}))
		}
		if i%perSecond == 0 {
			err = errors.Join(err, w.JSON(capture.Second, at, secondState{Tables: []agg.TableState{{NetNS: 1, Entries: 7, Max: 9}}}))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(nil); err != nil {
		b.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		run  func(*capture.Reader) error
	}{{"read", func(in *capture.Reader) error {
		return Recording(in, func() {}).Events(b.Context(), func(*event.Event) error { return nil })
	}}, {"detect", func(in *capture.Reader) error {
		_, err := ReplayCapture(b.Context(), in, ReplayConfig{Detect: detect.Config{}})
		return err
	}}, {"top", func(in *capture.Reader) error { // detectors, ledger and the census of top
		_, _, err := ReadPast(b.Context(), []Capture{Recording(in, func() {})}, PastConfig{Dims: []agg.Dim{agg.BySrc}})
		return err
	}}} {
		b.Run(tc.name, func(b *testing.B) {
			begin := cputime.Process()
			for b.Loop() {
				in, err := capture.NewReader(bytes.NewReader(out.Bytes()))
				if err == nil {
					err = tc.run(in)
				}
				if err != nil && !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cputime.Process()-begin).Nanoseconds())/float64(b.N)/float64(n), "cpu-ns/event")
		})
	}
}
