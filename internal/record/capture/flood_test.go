package capture

import (
	"bytes"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// TestFlood: events and sums that come as fast as one core can hand them over, to disks
// that are fast, slow, full and stuck: all that was given is in the file, or in a gap of
// it, to the event.
func TestFlood(t *testing.T) {
	const rounds = 8
	events := gateway(1 << 17)
	span := events[len(events)-1].Time - events[0].Time + 1000
	for name, mind := range map[string]func(d *disk, round int){
		"fast":  func(*disk, int) {},
		"slow":  func(d *disk, _ int) { d.each.Store(int64(3 * time.Millisecond)) },
		"stuck": func(d *disk, round int) { d.slow.Store(round > 1 && round < 5) },
		"full": func(d *disk, round int) {
			switch round {
			case 2:
				d.room.Store(1 << 20)
			case 5:
				d.room.Store(1 << 40)
				time.Sleep(retryEvery)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &disk{}
			d.room.Store(1 << 40)
			f, err := NewFile(d, Header{})
			must(t, err)
			r := NewRecorder(f)
			given, began := uint64(0), time.Now()
			for round := range rounds {
				mind(d, round)
				for at := 0; at < len(events); at += 256 {
					r.Events(Events, events[at:at+256])
					given += 256
					if at%4096 == 0 {
						r.Sum(&event.Sum{NetNS: 1, Src: netip.MustParseAddr("10.0.0.7"), Kind: event.New, N: 7, From: events[at].Time, Last: events[at].Time})
						given += 7
						r.JSON(Second, events[at].Time, map[string]int{"entries": at})
					}
				}
				for i := range events {
					events[i].Time += span
				}
				r.Flush()
			}
			took := time.Since(began)
			d.slow.Store(false)
			must(t, r.Close(nil))
			in, err := NewReader(bytes.NewReader(d.data))
			must(t, err)
			var told, sums, lost uint64
			last := event.Ktime(0)
			for x, err := in.Next(); err == nil; x, err = in.Next() {
				switch x.Kind {
				case Events:
					told += uint64(len(x.Events))
					for i := range x.Events {
						if x.Events[i].Time < last {
							t.Fatal("events are not in their order")
						}
						last = x.Events[i].Time
					}
				case Sums:
					sums += x.Sums[0].N
				case Gap:
					lost += x.Lost.Events
				}
			}
			s := r.Stats()
			if told+sums+lost != given || s.Events != told || s.Lost != lost || in.End == nil || in.End.Events != told || in.End.Lost != lost {
				t.Errorf("%d given, %d recorded, %d in sums, %d lost; %+v, end %+v", given, told, sums, lost, s, in.End)
			}
			if told == 0 || name != "fast" && lost == 0 {
				t.Errorf("%d recorded, %d lost: not the disk that was meant", told, lost)
			}
			t.Logf("%.1f million a second given, %d events and %d of sums recorded, %d lost", float64(given)/took.Seconds()/1e6, told, sums, lost)
		})
	}
}

// TestDiskGone: what could not be written until the end is in no gap, for there is no room
// for one, but it is counted.
func TestDiskGone(t *testing.T) {
	events := gateway(1 << 16)
	for _, room := range []int64{300, 100_000, 300_000} {
		d := &disk{}
		d.room.Store(room)
		f, err := NewFile(d, Header{})
		must(t, err)
		r := NewRecorder(f)
		given, sums := uint64(0), uint64(0)
		for at := 0; at < len(events); at += 256 {
			r.Events(Events, events[at:at+256])
			r.Sum(&event.Sum{NetNS: 1, Kind: event.New, N: 7, From: events[at].Time, Last: events[at].Time})
			given, sums = given+256, sums+7
			if at%(1<<13) == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		if err := r.Close(nil); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d bytes: %v", room, err)
		}
		in, err := NewReader(bytes.NewReader(d.data))
		must(t, err)
		var told, summed uint64
		for x, err := in.Next(); err == nil; x, err = in.Next() {
			if told += uint64(len(x.Events)); x.Kind == Sums {
				summed += x.Sums[0].N
			}
		}
		if s := r.Stats(); s.Events != told || s.Events+summed+s.Lost != given+sums || s.Lost == 0 || !errors.Is(s.Err, syscall.ENOSPC) {
			t.Errorf("%d bytes: %d given and %d in sums, in the file %d and %d; %+v", room, given, sums, told, summed, s)
		}
	}
}
