package baseline

import (
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// psad is psad 2.4 with its defaults: it reads what the firewall logs, here the packets
// of connections that failed. An alert is due at DANGER_LEVEL1 (5 packets) if they went
// to ports that are at least PORT_RANGE_SCAN_THRESHOLD (1) apart; every CHECK_INTERVAL
// (5 s) it looks. SCAN_TIMEOUT (1 h) makes it forget: with ENABLE_PERSISTENCE, its
// default, it never does.
func psad(all []Seen) []Alarm { return psadWith(all, 5, 0) }

func psadWith(all []Seen, packets uint64, timeout time.Duration) (out []Alarm) {
	const interval = event.Ktime(5 * time.Second)
	type scan struct {
		first   event.Ktime
		packets uint64
		lo, hi  uint16
	}
	scans := map[netip.Addr]*scan{}
	for i := range all {
		s := &all[i]
		if s.Kind == Tried || s.Kind == Opened || s.Orig.IsICMP() {
			continue
		}
		v := scans[s.Orig.Src]
		if v == nil || timeout > 0 && s.At.Sub(v.first) > timeout {
			v = &scan{first: s.At, lo: s.Orig.Dport, hi: s.Orig.Dport}
			scans[s.Orig.Src] = v
		}
		v.packets += s.Sent
		v.lo, v.hi = min(v.lo, s.Orig.Dport), max(v.hi, s.Orig.Dport)
		if v.packets >= packets && v.hi-v.lo >= 1 {
			out = append(out, Alarm{s.Orig.Src, (s.At/interval + 1) * interval})
		}
	}
	return once(out)
}
