package baseline

import (
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// zeek is policy/misc/scan.zeek of Zeek, with its defaults: within five minutes 25
// hosts that failed on one port (addr_scan_threshold), or 15 ports that failed on one
// host (port_scan_threshold); TCP only; attempts, rejections, and resets in the
// handshake. SumStats counts in epochs that follow each other and then starts again; a
// notice of one source is kept for an hour (Notice::default_suppression_interval).
func zeek(all []Seen) (out []Alarm) {
	const epoch, hosts, ports, quiet = 5 * time.Minute, 25, 15, time.Hour
	type key struct {
		src, dst netip.Addr // dst or port
		port     uint16
	}
	var number event.Ktime = -1
	var failed map[key]map[endpoint]bool
	told := map[netip.Addr]event.Ktime{}
	for i := range all {
		s := &all[i]
		if s.Orig.Proto != event.ProtoTCP || s.Kind == Tried || s.Kind == Opened {
			continue
		}
		if n := s.At / event.Ktime(epoch); n != number {
			number, failed = n, map[key]map[endpoint]bool{}
		}
		for _, k := range []struct {
			key
			limit int
		}{{key{src: s.Orig.Src, port: s.Orig.Dport}, hosts}, {key{src: s.Orig.Src, dst: s.Orig.Dst}, ports}} {
			if failed[k.key] == nil {
				failed[k.key] = map[endpoint]bool{}
			}
			failed[k.key][to(&s.Orig)] = true
			if at, had := told[s.Orig.Src]; len(failed[k.key]) >= k.limit && (!had || s.At.Sub(at) >= quiet) {
				told[s.Orig.Src] = s.At
				out = append(out, Alarm{s.Orig.Src, s.At})
			}
		}
	}
	return out
}

// simpleScan is the package bro-simple-scan (NCSA), with its defaults and no darknet:
// a remote source that has failed at 25 host-port pairs (scan_threshold), or at 20
// hosts of one port (knockknock_threshold), a local one at 250; what was found is
// forgotten after 15 minutes without a new one (scan_timeout), and an alarm is kept
// for an hour. TCP only, attempts and rejections, not resets. Local is
// Site::private_address_space.
func simpleScan(all []Seen) (out []Alarm) {
	const pairs, knocks, locals, forget, quiet = 25, 20, 250, 15 * time.Minute, time.Hour
	type info struct {
		last     event.Ktime
		attempts map[endpoint]bool
		ports    map[uint16]int
	}
	attacks, told := map[netip.Addr]*info{}, map[netip.Addr]event.Ktime{}
	for i := range all {
		s := &all[i]
		if s.Orig.Proto != event.ProtoTCP || s.Kind != Refused && s.Kind != Silent {
			continue
		}
		src := s.Orig.Src
		if at, had := told[src]; had && s.At.Sub(at) < quiet {
			continue
		}
		a := attacks[src]
		if a == nil || s.At.Sub(a.last) > forget {
			a = &info{attempts: map[endpoint]bool{}, ports: map[uint16]int{}}
			attacks[src] = a
		}
		a.last = s.At
		if a.attempts[to(&s.Orig)] {
			continue
		}
		a.attempts[to(&s.Orig)] = true
		a.ports[s.Orig.Dport]++
		limit := pairs
		if src.IsPrivate() {
			limit = locals
		}
		if len(a.attempts) >= limit || !src.IsPrivate() && a.ports[s.Orig.Dport] >= knocks {
			told[src] = s.At
			delete(attacks, src)
			out = append(out, Alarm{src, s.At})
		}
	}
	return out
}
