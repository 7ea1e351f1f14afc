// Package netlab builds network namespaces of its own and sends traffic
// through them whose truth is known packet by packet: who sent how much to
// whom, and how many entries a connection tracking table must hold afterwards.
// The lab's tests use it inside virtual machines, `ctsight demo` on the user's
// host.
//
// The picture is a client A, a router R and a server B, joined by veth pairs:
//
//	A a0 10.0.1.2 fd00:1::2 -- ra 10.0.1.1 fd00:1::1 R rb 10.0.2.1 fd00:2::1 -- b0 10.0.2.2 fd00:2::2 B
//
// R forwards and tracks connections; A and B do not track. Nobody speaks ARP,
// neighbour discovery or multicast listener discovery, so a packet on the wire
// is a packet somebody asked for. R routes everything it does not know to A:
// A may send with any source address and the answers find their way back.
//
// Nothing outside the lab's own namespaces is changed, and Close removes all of
// it. The one exception has to be asked for by name: Router.SetSysctl.
//
// The package traces nothing and knows nothing of eBPF; that is the business
// of those who use it.
package netlab

import (
	"errors"
	"net/netip"
)

// Errors that callers compare with errors.Is.
var (
	// ErrPrivilege says that namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN).
	ErrPrivilege = errors.New("network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")
	// ErrInUse says that a lab of this name runs in another process.
	ErrInUse = errors.New("a lab of this name is already running")
	// ErrLost says that packets were lost before the router saw them, so
	// that the truth is not known.
	ErrLost = errors.New("packets lost before the router")
	// ErrTimeout says that packets did not get through in time.
	ErrTimeout = errors.New("packets did not arrive in time")
	// ErrOneCPU says that a race needs two CPUs.
	ErrOneCPU = errors.New("a race needs two CPUs")
	// ErrClosed says that the lab, or a part of it, is gone.
	ErrClosed = errors.New("lab is closed")
)

// Addresses of the lab, the same in every lab.
var (
	ClientV4  = netip.MustParseAddr("10.0.1.2")
	ClientV6  = netip.MustParseAddr("fd00:1::2")
	RouterAV4 = netip.MustParseAddr("10.0.1.1")
	RouterAV6 = netip.MustParseAddr("fd00:1::1")
	RouterBV4 = netip.MustParseAddr("10.0.2.1")
	RouterBV6 = netip.MustParseAddr("fd00:2::1")
	ServerV4  = netip.MustParseAddr("10.0.2.2")
	ServerV6  = netip.MustParseAddr("fd00:2::2")

	// Addresses of the second link (Router.SecondLink).
	RouterCV4 = netip.MustParseAddr("10.0.3.1")
	RouterCV6 = netip.MustParseAddr("fd00:3::1")
	ServerCV4 = netip.MustParseAddr("10.0.3.2")
	ServerCV6 = netip.MustParseAddr("fd00:3::2")

	// SinkV4 and SinkV6 lie behind B, which drops everything to them
	// before it could answer: no reset, no ICMP, whatever the protocol.
	SinkV4 = netip.MustParsePrefix("10.9.0.0/16")
	SinkV6 = netip.MustParsePrefix("fd00:9::/64")
)

// SinkPorts are the ports that B drops on all of its addresses, and whose
// answers A drops, so that TCP can be forged from both sides.
var SinkPorts = Ports{First: 7000, N: 1000}

// Sink returns the i-th address that swallows everything (SinkV4).
func Sink(i int) netip.Addr { return Addrs{First: SinkV4.Addr().Next(), N: i + 1}.At(i) }

// Sink6 returns the i-th IPv6 address that swallows everything (SinkV6).
func Sink6(i int) netip.Addr { return Addrs{First: SinkV6.Addr().Next(), N: i + 1}.At(i) }
