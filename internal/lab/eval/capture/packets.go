package capture

import (
	"net/netip"
	"path"
	"path/filepath"

	"github.com/ctsight/ctsight/internal/lab/ctreplay"
	"github.com/ctsight/ctsight/internal/lab/pcapct"
)

// pcaps are the packet captures that no replay was made of, with what their senders
// are: the file's name says it (shared/data/README.md). ICMP sweeps of fewer than ten
// hosts count neither way.
var pcaps = []struct {
	file, class string
	role        Role
}{
	{"ndpi/bitcoin", "benign-p2p", Benign}, {"ndpi/bot", "benign, a crawler", Benign}, {"ndpi/zabbix", "benign, a poller", Benign},
	{"ndpi/check_mk_new", "benign, a poller", Benign}, {"ndpi/munin", "benign, a poller", Benign},
	{"ndpi/nest_log_sink", "benign, a device that logs", Benign}, {"ndpi/bad-dns-traffic", "abuse of DNS, no scan", Other},
	{"slips/test12-icmp-portscan", "scanner, ICMP sweep", Scanner}, {"slips/test19-ssh-bruteforce", "password guessing", Other},
	{"ndpi/gnutella", "benign-p2p", Benign}, {"ndpi/synscan", "scanner-vertical", Scanner},
	{"scan-ng/23-tcp-scan", "scanner-horizontal", Scanner}, {"zeek/sshguess", "password guessing", Other},
}

// Packets returns the packet captures as what conntrack would have done with them.
func Packets() (out []Capture, err error) {
	dir, err := ctreplay.Find()
	if err != nil {
		return nil, err
	}
	for _, p := range pcaps {
		packets, start, err := pcapct.Read(filepath.Join(dir, p.file+".pcap.gz"))
		if err != nil {
			return nil, err
		}
		c := Capture{Name: path.Base(p.file) + ".pcap", Start: start, Lines: pcapct.Convert(packets)}
		c.senders(p.class, p.role)
		out = append(out, c)
	}
	return out, nil
}

// senders makes a source of everybody who opened something. The one with the most
// failing endpoints is who the capture is about; the others are benign beside a
// scanner, and the same otherwise.
func (c *Capture) senders(class string, r Role) {
	type target struct {
		src, dst netip.Addr
		port     uint16
		proto    uint8
	}
	places, failed, most := map[netip.Addr]int{}, map[target]bool{}, -1
	for i := range c.Lines {
		l := &c.Lines[i]
		o := l.Event.Orig
		at, ok := places[o.Src]
		if !ok {
			at = len(c.Sources)
			places[o.Src] = at
			c.Sources = append(c.Sources, Source{Net: netip.PrefixFrom(o.Src, o.Src.BitLen()), Class: class, Role: r})
		}
		s := &c.Sources[at]
		if t := (target{o.Src, o.Dst, o.Dport, o.Proto}); l.What == 'D' && l.Event.Status == 0 && !failed[t] {
			failed[t] = true
			s.Failing++
		}
		if most < 0 || s.Failing > c.Sources[most].Failing {
			most = at
		}
	}
	for i := range c.Sources {
		switch s := &c.Sources[i]; {
		case r != Scanner:
		case i != most:
			s.Class, s.Role = "beside a scanner", Benign
		case s.Failing < tenFailing:
			s.Role = Below
		}
	}
}

// tenFailing is the least that a scanner is expected to be found for.
const tenFailing = 10
