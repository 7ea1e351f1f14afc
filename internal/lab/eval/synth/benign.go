package synth

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// office is n hosts that use the web: some 600 first contacts a day each, a share of
// which fails, every second one by silence.
func (w *world) office(length time.Duration, n int, fails float64) {
	for h := range n {
		src := w.who(addr("10.1.0.0/16", 1+h), "benign", capture.Benign)
		w.surf(src, 0, length, 2*time.Minute, fails)
	}
}

// surf is a host that opens connections, first contacts every now and then.
func (w *world) surf(src netip.Addr, from, length, fresh time.Duration, fails float64) {
	for at := from + w.soon(fresh); at < from+length; at += w.soon(fresh) {
		e := tcp(w.anywhere(), []uint16{443, 443, 443, 80, 993, 8443}[w.IntN(6)])
		o := good
		if w.chance(fails) {
			o = w.dead()
		}
		w.contact(at, src, e, o)
		if o == good { // and again
			w.contact(at+300*time.Millisecond, src, e, good)
		}
	}
}

// dead is how something that is not there answers.
func (w *world) dead() outcome {
	if w.chance(.5) {
		return refused
	}
	return filtered
}

// users is a gateway or proxy: many users with one address, who share servers.
func (w *world) users(src netip.Addr, length, every time.Duration, fails float64) {
	for at := w.soon(every); at < length; at += w.soon(every) {
		n := w.some(4000)
		o := good
		if float64(n%997)/997 < fails {
			o = []outcome{refused, filtered}[n%2]
		}
		w.contact(at, src, tcp(addr("192.0.0.0/8", n), []uint16{443, 80, 443, 8443, 993}[n%5]), o)
	}
}

// Benign is what must not be called a scan.
func Benign() (out []Scenario) {
	for _, p := range []float64{.02, .05, .1, .15, .2, .25, .3} {
		out = append(out, Scenario{Name: fmt.Sprintf("50 hosts for a day, %.0f %% of first contacts fail", 100*p), make: func(w *world) { w.office(24*time.Hour, 50, p) }})
	}
	for _, every := range []time.Duration{2 * time.Second, 15 * time.Second, time.Minute} {
		for _, dead := range []float64{.3, .66, 1} {
			for _, o := range []outcome{refused, filtered, good} {
				how := map[outcome]string{refused: "refused", filtered: "black-holed", good: "half refused, half black-holed"}[o]
				out = append(out, Scenario{Name: fmt.Sprintf("poller of 60 targets every %s, %.0f %% dead, %s", every, 100*dead, how), make: func(w *world) { w.poller(60, every, dead, o) }})
			}
		}
	}
	return append(out,
		Scenario{Name: "resolver, 20 % of name servers dead, 50 queries/s", make: func(w *world) { w.resolver(.2, 20*time.Millisecond) }},
		Scenario{Name: "resolver, 20 % dead, cold start at 1,000 queries/s", make: func(w *world) { w.resolver(.2, time.Millisecond) }},
		Scenario{Name: "resolver, 40 % dead, 50 queries/s", make: func(w *world) { w.resolver(.4, 20*time.Millisecond) }},
		Scenario{Name: "load balancer, 50 backends checked every 2 s, 10 refuse", make: func(w *world) { w.checks(refused) }},
		Scenario{Name: "load balancer, 50 backends checked every 2 s, 10 silent", make: func(w *world) { w.checks(filtered) }},
		Scenario{Name: "load balancer, 50 backends checked every 2 s, all alive", make: func(w *world) { w.checks(good) }},
		Scenario{Name: "20 clients without keep-alive, 5 connections/s each to an API on 8080", make: noKeepAlive},
		Scenario{Name: "load balancer whose whole pool of 50 is dead from the start", make: wholePool},
		Scenario{Name: "crawler, 200 in parallel, 100 ms away, 10 % dead", make: func(w *world) { w.crawler(.10) }},
		Scenario{Name: "crawler, 200 in parallel, 100 ms away, 15 % dead", make: func(w *world) { w.crawler(.15) }},
		Scenario{Name: "mail server, 40 % of exchangers dead, retries every 15 min", make: mail},
		Scenario{Name: "peer-to-peer on random ports, 75 % of peers gone, UDP", make: func(w *world) { w.peers(0, true) }},
		Scenario{Name: "peer-to-peer on random ports, 75 % of peers gone, TCP", make: func(w *world) { w.peers(0, false) }},
		Scenario{Name: "peer-to-peer on one port, 75 % of peers gone, UDP", make: func(w *world) { w.peers(6346, true) }},
		Scenario{Name: "peer-to-peer on one port, 75 % of peers gone, TCP", make: func(w *world) { w.peers(8333, false) }},
		Scenario{Name: "NAT gateway, 300 users, 50 connections/s, 5 % dead", make: func(w *world) {
			w.users(w.who(addr("203.0.113.5/32", 0), "benign", capture.Benign), 20*time.Minute, 20*time.Millisecond, .05)
		}},
		Scenario{Name: "uplink cut for 60 s, one source, 5 new endpoints/s", make: func(w *world) { w.cut(1, 200*time.Millisecond) }},
		Scenario{Want: "upstream_outage", Name: "uplink cut for 60 s, 40 sources, one new endpoint per 2 s each", make: func(w *world) { w.cut(40, 2*time.Second) }},
		Scenario{Want: "upstream_outage", Name: "uplink cut for 60 s, 400 sources, one new endpoint per 10 s each", make: func(w *world) { w.cut(400, 10*time.Second) }},
		Scenario{Want: "service_down", Name: "a service goes down, 50 clients try it every second", make: serviceDown},
		Scenario{Name: "video calls: a third of the candidates cannot be reached", make: calls},
		Scenario{Name: "host whose IPv6 does not work, IPv4 does", make: brokenIPv6},
		Scenario{Name: "clients that come and go behind a proxy, 2 % refused, 200/s", make: proxyLAN},
		Scenario{Name: "rollout: 30 new pods refuse for 20 s, then serve", make: rollout},
		Scenario{Name: "poller of 200 targets every 2s, 30 % dead, black-holed", make: func(w *world) { w.poller(200, 2*time.Second, .3, filtered) }},
		Scenario{Name: "pings to 200 hosts every minute, 30 % down", make: pingMonitor},
		Scenario{Name: "crawler, 200 in parallel, 100 ms away, 15 % dead, all silent", make: func(w *world) { w.crawl(.15, func() outcome { return filtered }) }},
		Scenario{Name: "browsers where UDP is blocked: QUIC first, then TCP", make: quicBlocked},
		Scenario{Name: "resolver whose TCP is blocked, 5 % of answers truncated", make: tcpBlocked},
		Scenario{Name: "FTP client whose passive ports are filtered", make: ftpBlocked},
		Scenario{Name: "link so slow that half of the answers take 4 s", make: slowLink},
		Scenario{Name: "traceroute over UDP to 20 hosts, 15 hops, every 5 min", make: traceroute},
		Scenario{Name: "200 phones of one network whose NTP is blocked, four servers each", make: ntpBlocked},
		Scenario{Name: "BitTorrent: 50 peers at once, then one a second, 40 % on 6881, 70 % gone, DHT", make: bittorrent},
		Scenario{Name: "poller of 30 hosts on five ports each, every minute, 30 % of hosts dead", make: services},
		Scenario{Name: "Tor client: 300 relays, 10 % gone", make: tor},
		Scenario{Name: "office of 200 hosts behind a firewall that drops all but 80 and 443", make: strictFirewall},
		Scenario{Name: "public web server that is down for three hours, 100 new clients a minute", Want: "service_down", make: func(w *world) { w.webServer(20 * time.Minute) }},
		Scenario{Name: "address that is in DNS and answers nobody, 100 new clients a minute", make: func(w *world) { w.webServer(0) }},
		Scenario{Name: "chrony whose NTP is blocked: a new server of the pool every 2 min", make: chrony},
		Scenario{Name: "backup that asks 40 laptops every night, 60 % asleep", make: backup},
	)
}

// poller asks its targets for their metrics, each at a moment of its own of the
// interval.
func (w *world) poller(targets int, every time.Duration, dead float64, how outcome) {
	src := w.who(addr("10.2.0.9/32", 0), "benign", capture.Benign)
	n := int(dead * float64(targets))
	slot := w.Perm(targets)
	for round := range int(20 * time.Minute / every) {
		for k := range targets {
			o := good
			if k < n {
				if o = how; how == good {
					o = []outcome{refused, filtered}[k%2]
				}
			} else if round > 0 {
				continue // kept alive
			}
			at := time.Duration(round)*every + time.Duration(slot[k])*every/time.Duration(targets)
			w.contact(at, src, tcp(addr("10.3.0.0/16", k), 9100), o)
		}
	}
	w.office(20*time.Minute, 20, .05)
}

func (w *world) resolver(dead float64, every time.Duration) {
	src := w.who(addr("10.2.0.53/32", 0), "benign", capture.Benign)
	const servers = 5000
	for at := w.soon(every); at < 10*time.Minute && len(w.lines) < 150_000; at += w.soon(every) {
		n := w.some(servers)
		o := good
		if float64(n*7919%servers) < dead*servers {
			o = filtered
		}
		e := udp(addr("192.0.0.0/8", n*31), 53)
		w.contact(at, src, e, o)
		switch {
		case o != good: // asks the next
			w.contact(at+400*time.Millisecond, src, udp(addr("192.0.0.0/8", (n*31+1)%servers*31), 53), good)
		case w.chance(.01): // truncated
			w.contact(at+25*time.Millisecond, src, tcp(e.addr, 53), good)
		}
	}
}

func (w *world) checks(how outcome) {
	src := w.who(addr("10.2.0.80/32", 0), "benign", capture.Benign)
	for round := range 300 {
		for k := range 50 {
			o := good
			if k%5 == 0 {
				o = how
			}
			w.contact(time.Duration(round)*2*time.Second+time.Duration(k)*3*time.Millisecond, src, tcp(addr("10.3.0.0/16", k), 8080), o)
		}
	}
}

func wholePool(w *world) {
	src := w.who(addr("10.2.0.80/32", 0), "benign", capture.Benign)
	for round := range 300 {
		for k := range 50 {
			w.contact(time.Duration(round)*2*time.Second+time.Duration(k)*3*time.Millisecond, src, tcp(addr("10.3.0.0/16", k), 8080), refused)
		}
	}
	w.office(10*time.Minute, 20, .05)
}

// crawler keeps 200 connections under way: who is silent holds a place for 20 s.
func (w *world) crawler(dead float64) { w.crawl(dead, w.dead) }

func (w *world) crawl(dead float64, how func() outcome) {
	w.rtt = 100 * time.Millisecond
	src := w.who(addr("10.2.0.99/32", 0), "benign", capture.Benign)
	next := 0
	for range 200 {
		for at := time.Duration(0); at < 5*time.Minute; {
			o := good
			if w.chance(dead) {
				o = how()
			}
			w.contact(at, src, tcp(addr("192.0.0.0/8", next), []uint16{443, 443, 80}[next%3]), o)
			next++
			at += map[outcome]time.Duration{good: 2 * time.Second, refused: 100 * time.Millisecond, filtered: 20 * time.Second}[o]
		}
	}
}

func mail(w *world) {
	src := w.who(addr("10.2.0.25/32", 0), "benign", capture.Benign)
	for n := range 1500 {
		at, e := time.Duration(n)*10*time.Second+w.soon(5*time.Second), tcp(w.anywhere(), 25)
		if !w.chance(.4) {
			w.contact(at, src, e, good)
			continue
		}
		for try, o := 0, w.dead(); try < 8; try++ {
			w.contact(at+time.Duration(try)*15*time.Minute, src, e, o)
		}
	}
}

// peers: one in four of those that a list names is still there.
func (w *world) peers(port uint16, isUDP bool) {
	src := w.who(addr("10.4.0.4/32", 0), "benign-p2p", capture.Benign)
	for n := range 1500 {
		at := time.Duration(n) * 800 * time.Millisecond
		p := port
		if p == 0 {
			p = uint16(1024 + w.IntN(60000))
		}
		e := tcp(w.anywhere(), p)
		if isUDP {
			e.proto = 17
		}
		o := w.dead()
		if w.chance(.25) {
			o = good
		}
		w.contact(at, src, e, o)
		if o == good {
			w.contact(at+time.Minute, src, e, good)
		}
	}
	w.office(20*time.Minute, 20, .05)
}

// cut: hosts that open connections while for a minute nothing comes back.
func (w *world) cut(hosts int, every time.Duration) {
	const begin, length = 20 * time.Minute, time.Minute
	for h := range hosts {
		src := w.who(addr("10.1.0.0/16", 1+h), "benign", capture.Benign)
		for at := w.soon(every); at < 30*time.Minute; at += w.soon(every) {
			o := good
			if at >= begin && at < begin+length {
				o = filtered
			} else if w.chance(.03) {
				o = w.dead()
			}
			w.contact(at, src, tcp(w.anywhere(), []uint16{443, 443, 80}[w.IntN(3)]), o)
		}
	}
}

func serviceDown(w *world) {
	e := tcp(addr("10.5.0.5/32", 0), 5432)
	for h := range 50 {
		src := w.who(addr("10.1.0.0/16", 1+h), "retries", capture.Other)
		for n := range 600 {
			o := good
			if n >= 300 {
				o = refused
			}
			w.contact(time.Duration(n)*time.Second+time.Duration(h)*17*time.Millisecond, src, e, o)
		}
	}
}

// calls: each begins with checks of candidates of the other side, private addresses
// among them (ICE, RFC 8445).
func calls(w *world) {
	for h := range 20 {
		src := w.who(addr("10.1.0.0/16", 1+h), "benign", capture.Benign)
		for call := range 40 {
			at := time.Duration(call)*15*time.Minute + w.soon(5*time.Minute)
			for k := range 9 {
				e, o := udp(w.anywhere(), uint16(20000+w.IntN(40000))), good
				if k%3 == 0 {
					e.addr, o = addr("192.168.0.0/16", w.IntN(1<<16)), filtered
				}
				w.contact(at+time.Duration(k)*20*time.Millisecond, src, e, o)
			}
		}
		w.surf(src, 0, 10*time.Hour, 2*time.Minute, .05)
	}
}

// brokenIPv6: a router announces a prefix that leads nowhere. Clients try both
// (RFC 8305), so that the user notices nothing.
func brokenIPv6(w *world) {
	v6, v4 := w.who(addr("2001:db8:1::7/128", 0), "benign", capture.Benign), w.who(addr("10.1.0.7/32", 0), "benign", capture.Benign)
	for n := range 300 {
		at := time.Duration(n)*20*time.Second + w.soon(10*time.Second)
		w.contact(at, v6, tcp(addr("2001:db8:ffff::/48", w.IntN(1<<20)), 443), filtered)
		w.contact(at+250*time.Millisecond, v4, tcp(w.anywhere(), 443), good)
	}
	w.office(100*time.Minute, 20, .05)
}

func proxyLAN(w *world) {
	src := w.who(addr("10.6.0.1/32", 0), "benign", capture.Benign)
	for n := range 60_000 {
		o := good
		if w.chance(.02) {
			o = refused
		}
		w.contact(time.Duration(n)*5*time.Millisecond, src, tcp(addr("10.7.0.0/16", w.some(300)), 3128), o)
	}
}

func rollout(w *world) {
	for h := range 10 {
		src := w.who(addr("10.1.0.0/16", 1+h), "benign", capture.Benign)
		for n := range 1200 {
			at := time.Duration(n)*250*time.Millisecond + time.Duration(h)*7*time.Millisecond
			pod := n % 30
			o := good
			if at < 20*time.Second {
				o = refused
			}
			w.contact(at, src, tcp(addr("10.8.0.0/16", pod), 8080), o)
		}
	}
}

func backup(w *world) {
	src := w.who(addr("10.2.0.44/32", 0), "benign", capture.Benign)
	for night := range 5 {
		for k := range 40 {
			at := time.Duration(night)*24*time.Hour + time.Duration(k)*30*time.Second
			o := good
			if w.chance(.6) {
				o = filtered
			}
			for try := range 3 {
				if o == good && try > 0 {
					break
				}
				w.contact(at+time.Duration(try)*5*time.Minute, src, tcp(addr("10.1.0.0/16", k), 2049), o)
			}
		}
	}
}

func pingMonitor(w *world) {
	src := w.who(addr("10.2.0.7/32", 0), "benign", capture.Benign)
	for round := range 30 {
		for k := range 200 {
			o := good
			if k%10 < 3 {
				o = filtered
			}
			w.contact(time.Duration(round)*time.Minute+time.Duration(k)*20*time.Millisecond, src, to{addr("10.3.0.0/16", k), 8 << 8, 1}, o)
		}
	}
}

// quicBlocked: browsers race the two, and learn nothing from one site for the next.
func quicBlocked(w *world) {
	for h := range 30 {
		src := w.who(addr("10.1.0.0/16", 1+h), "benign", capture.Benign)
		for at := w.soon(time.Minute); at < 4*time.Hour; at += w.soon(time.Minute) {
			site := w.anywhere()
			w.contact(at-100*time.Millisecond, src, udp(addr("10.2.0.53/32", 0), 53), good)
			w.contact(at, src, udp(site, 443), filtered)
			w.contact(at+50*time.Millisecond, src, tcp(site, 443), good)
		}
	}
}

func tcpBlocked(w *world) {
	src := w.who(addr("10.2.0.53/32", 0), "benign", capture.Benign)
	for n := range 20_000 {
		at, server := time.Duration(n)*30*time.Millisecond, addr("192.0.0.0/8", 31*w.some(5000))
		w.contact(at, src, udp(server, 53), good)
		if w.chance(.05) {
			w.contact(at+25*time.Millisecond, src, tcp(server, 53), filtered)
		}
	}
}

func ftpBlocked(w *world) {
	src, server := w.who(addr("10.1.0.9/32", 0), "benign", capture.Benign), addr("198.51.100.21/32", 0)
	for n := range 40 {
		at := time.Duration(n) * 20 * time.Second
		w.contact(at, src, tcp(server, 21), good)
		w.contact(at+time.Second, src, tcp(server, uint16(50000+w.IntN(10000))), filtered)
	}
}

// slowLink: the answer comes, but later than a contact is waited for.
func slowLink(w *world) {
	src := w.who(addr("10.1.0.8/32", 0), "benign", capture.Benign)
	for n := range 600 {
		if w.rtt = 600 * time.Millisecond; w.chance(.5) {
			w.rtt = 4 * time.Second
		}
		w.contact(time.Duration(n)*500*time.Millisecond, src, tcp(w.anywhere(), 443), good)
	}
}

func noKeepAlive(w *world) {
	for h := range 20 {
		src := w.who(addr("10.1.0.0/16", 1+h), "benign", capture.Benign)
		for n := range 5 * 60 * 5 {
			w.contact(time.Duration(n)*200*time.Millisecond+time.Duration(h)*7*time.Millisecond, src, tcp(addr("10.5.0.6/32", 0), 8080), good)
		}
	}
}

// traceroute sends three probes per hop, each to a port of its own from 33434 on; hops
// answer with ICMP errors, the host with port unreachable.
func traceroute(w *world) {
	src := w.who(addr("10.2.0.8/32", 0), "benign", capture.Benign)
	for round := range 6 {
		for h := range 20 {
			for k := range 45 {
				w.contact(time.Duration(round)*5*time.Minute+time.Duration(h)*4*time.Second+time.Duration(k)*20*time.Millisecond, src,
					udp(addr("198.51.100.0/24", h), uint16(33434+k)), filtered)
			}
		}
	}
	w.office(30*time.Minute, 20, .05)
}

func ntpBlocked(w *world) {
	for h := range 200 {
		src := w.who(addr("10.1.0.0/24", 1+h), "benign", capture.Benign)
		at := w.soon(10 * time.Minute)
		w.contact(at, src, udp(addr("10.2.0.53/32", 0), 53), good)
		for k := range 4 {
			w.contact(at+time.Duration(1+k)*100*time.Millisecond, src, udp(w.anywhere(), 123), filtered)
		}
		w.surf(src, at+time.Second, time.Hour, 2*time.Minute, .03)
	}
}

func bittorrent(w *world) {
	src := w.who(addr("10.4.0.5/32", 0), "benign-p2p", capture.Benign)
	for n := range 900 {
		at := max(0, time.Duration(n-50)*time.Second) + time.Duration(n)*3*time.Millisecond
		port := uint16(6881)
		if w.chance(.6) {
			port = uint16(1024 + w.IntN(60000))
		}
		e, o := tcp(w.anywhere(), port), good
		if w.chance(.7) {
			o = w.dead()
		}
		if w.contact(at, src, e, o); n%2 == 0 { // DHT
			o = good
			if w.chance(.5) {
				o = filtered
			}
			w.contact(at+300*time.Millisecond, src, udp(w.anywhere(), uint16(1024+w.IntN(60000))), o)
		}
	}
	w.office(15*time.Minute, 20, .05)
}

func services(w *world) {
	src := w.who(addr("10.2.0.10/32", 0), "benign", capture.Benign)
	for round := range 30 {
		for k := range 150 {
			h := k * 7 % 30
			o := good
			if h < 9 {
				o = filtered
			}
			w.contact(time.Duration(round)*time.Minute+time.Duration(k)*100*time.Millisecond, src, tcp(addr("10.3.0.0/16", h), []uint16{22, 80, 443, 3306, 10050}[k/30]), o)
		}
	}
}

func tor(w *world) {
	src := w.who(addr("10.1.0.12/32", 0), "benign", capture.Benign)
	for n := range 300 {
		o := good
		if w.chance(.1) {
			o = w.dead()
		}
		w.contact(time.Duration(n)*2*time.Second, src, tcp(w.anywhere(), []uint16{9001, 443, 9001, 8443}[w.IntN(4)]), o)
	}
}

// strictFirewall: what is not the web is tried now and then, and never answered.
func strictFirewall(w *world) {
	ports := []to{{port: 5228, proto: 6}, {port: 853, proto: 6}, {port: 3478, proto: 17}, {port: 123, proto: 17}, {port: 993, proto: 6}, {port: 8080, proto: 6}, {port: 19302, proto: 17}}
	for h := range 200 {
		src := w.who(addr("10.1.0.0/24", 1+h), "benign", capture.Benign)
		for at := w.soon(time.Minute); at < 3*time.Hour; at += w.soon(time.Minute) {
			w.contact(at, src, tcp(w.anywhere(), []uint16{443, 80}[w.IntN(2)]), good)
			if w.chance(.05) {
				e := ports[w.IntN(len(ports))]
				e.addr = w.anywhere()
				w.contact(at+time.Second, src, e, filtered)
			}
		}
	}
}

// webServer is up until then, and its clients come once each, three tries.
func (w *world) webServer(up time.Duration) {
	e := tcp(addr("203.0.113.80/32", 0), 443)
	for n := range 100 * 200 {
		at, src := time.Duration(n)*600*time.Millisecond, w.who(w.anywhere(), "client", capture.Benign)
		o := good
		if at > up {
			o = filtered
		}
		for k := range 3 {
			if w.contact(at+time.Duration(k)*5*time.Second, src, e, o); o == good {
				break
			}
		}
	}
}

func chrony(w *world) {
	src := w.who(addr("10.1.0.13/32", 0), "benign", capture.Benign)
	for n := range 90 {
		at := time.Duration(n) * 2 * time.Minute
		w.contact(at, src, udp(addr("10.2.0.53/32", 0), 53), good)
		w.contact(at+time.Second, src, udp(w.anywhere(), 123), filtered)
	}
	w.office(3*time.Hour, 20, .05)
}

func worm(w *world) {
	for h := range 20 {
		src := w.who(addr("10.1.0.0/16", 1+h), "scanner-horizontal", capture.Scanner)
		w.surf(src, 0, 20*time.Minute, 20*time.Second, .03)
		w.since(src, 10*time.Minute)
		for n := range 300 {
			w.contact(10*time.Minute+time.Duration(n)*time.Second+time.Duration(h)*37*time.Millisecond, src, tcp(w.anywhere(), 445), filtered)
		}
	}
}
