// Package scan runs the tools that people scan and flood with through a gateway, on
// real kernels, and traffic of honest programs that fails as much: what ctsight says
// of them is held against the packets that nft saw at the gateway.
package scan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

func TestMain(m *testing.M) { os.Exit(trace.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Where everybody lives. A client is any address of its network; of the servers'
// network some addresses are alive, and nobody answers for the others.
var (
	clients = netip.MustParsePrefix("10.1.0.0/16")
	servers = netip.MustParsePrefix("10.2.0.0/16")
	alive   = []netip.Prefix{ // 10.2.0.2 and 10.2.0.10 to .29
		netip.MustParsePrefix("10.2.0.2/32"), netip.MustParsePrefix("10.2.0.10/31"), netip.MustParsePrefix("10.2.0.12/30"),
		netip.MustParsePrefix("10.2.0.16/29"), netip.MustParsePrefix("10.2.0.24/30"), netip.MustParsePrefix("10.2.0.28/31"),
	}
)

// Ports that are open on whoever is alive, with TCP and UDP.
var open = []uint16{53, 80}

// What becomes of who asks whom: in the first network every service answers, in the
// second every connection is refused, in the third nobody lives.
var (
	good   = netip.MustParsePrefix("10.3.0.0/17")
	closed = netip.MustParsePrefix("10.3.128.0/17")
	silent = netip.MustParsePrefix("10.2.128.0/17")
)

// nth is the i-th address of a network.
func nth(p netip.Prefix, i int) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
	return netip.AddrFrom4(b)
}

// town is a lab with a gateway under test and its truth.
type town struct {
	*netlab.Router
	t testing.TB
}

// newTown builds one whose servers live in some networks; outside the VM, and without
// a tool, the test is skipped.
func newTown(t testing.TB, homes []netip.Prefix, tools ...string) *town {
	t.Helper()
	lab.NeedVM(t)
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s in the guest: make deps-lab deps-test", tool)
		}
	}
	trace.LoadModules()
	r, err := netlab.NewRouter(netlab.Options{Name: "town", ClientNets: []netip.Prefix{clients}, ServerNets: homes, NoSink: true})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	must(t, r.R.Via(servers, netlab.ServerV4))
	must(t, r.R.NFT(truthRules))
	return &town{r, t}
}

// serve opens the ports of those that are alive.
func (w *town) serve() {
	w.t.Helper()
	for _, p := range alive {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			for _, port := range open {
				_, err := w.ServeTCP(netip.AddrPortFrom(a, port))
				must(w.t, err)
				_, err = w.ServeUDP(netip.AddrPortFrom(a, port))
				must(w.t, err)
			}
		}
	}
}

// manner is how a tool knocks.
type manner int

const (
	takesBack manner = iota // a SYN, and a RST when it is accepted
	bare                    // an ACK out of the blue
	connects
)

// fate is what becomes of a first packet.
type fate string

const (
	refused    fate = "refused"
	unanswered fate = "unanswered"
	half       fate = "half_open"
	invalid    fate = "invalid"
	answered   fate = "answered"
)

// fateOf tells by how the town is built. An ACK out of the blue is refused by a port
// that is open, too, and an ICMP error is no answer to conntrack.
func fateOf(c contact, how manner) fate {
	isOpen := slices.Contains(open, c.port)
	switch {
	case !isAlive(c.dst):
		return unanswered
	case c.proto == event.ProtoICMP:
		return answered
	case c.proto == event.ProtoUDP && !isOpen:
		return unanswered
	case c.proto == event.ProtoUDP:
		return answered
	case !isOpen, how == bare:
		return refused
	case how == takesBack:
		return half
	}
	return answered
}

func isAlive(a netip.Addr) bool {
	return slices.ContainsFunc(alive, func(p netip.Prefix) bool { return p.Contains(a) })
}

// run runs a tool among the clients, and none for longer than a slow machine needs. Code
// 124 is of one that was ended.
func (w *town) run(limit time.Duration, cmd string) error {
	out, err := w.A.Run("timeout", append([]string{fmt.Sprint(limit.Seconds())}, strings.Fields(cmd)...)...)
	var code *exec.ExitError
	if err != nil && (limit == patience || !errors.As(err, &code) || code.ExitCode() != 124) {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// patience is longer than any tool takes that ends by itself.
const patience = 5 * time.Minute
