package scan

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/ctsight/ctsight/internal/lab"
)

// soakFor is how long honest traffic runs; the environment may say more.
const soakFor = 150 * time.Second

// cutFor is how long the uplink is gone, in the middle.
const cutFor = time.Minute

// some are n endpoints, of which every so many is dead: half of them refuse, half are
// silent. Those of UDP are silent.
func some(block, n int, dead float64, udp bool, port func(i int) uint16) (all []netip.AddrPort) {
	for i := range n {
		in, bad := good, int(float64(i+1)*dead)
		switch {
		case bad == int(float64(i)*dead):
		case udp || bad%2 == 0:
			in = silent
		default:
			in = closed
		}
		all = append(all, netip.AddrPortFrom(nth(in, block<<9+i+1), port(i)))
	}
	return all
}

func always(port uint16) func(int) uint16 { return func(int) uint16 { return port } }

// habit is what an honest client does: it asks peers, now and then, one of them after
// the other or by chance.
type habit struct {
	name    string
	src     netip.Addr
	network string
	peers   []netip.AddrPort
	every   time.Duration
	inTurn  bool
	tries   int // at other peers, when one fails

	asked, failed atomic.Int64
	surprised     atomic.Int64 // failed though the peer is alive, the uplink being cut or not
}

func habits() []*habit {
	const p2pPorts = 64
	return []*habit{
		{name: "resolver with 20 % dead name servers", src: addr("10.1.101.2"), network: "udp", peers: some(1, 300, .2, true, always(53)), every: 120 * time.Millisecond, tries: 3},
		{name: "load balancer, 50 backends, 10 dead", src: addr("10.1.102.2"), network: "tcp", peers: some(2, 50, .2, false, always(8080)), every: 100 * time.Millisecond, inTurn: true},
		{name: "crawler of 200 hosts, 10 % dead", src: addr("10.1.103.2"), network: "tcp", peers: some(3, 200, .1, false, always(443)), every: 250 * time.Millisecond},
		{name: "mail, 40 % dead exchangers", src: addr("10.1.104.2"), network: "tcp", peers: some(4, 200, .4, false, always(25)), every: 500 * time.Millisecond, tries: 2},
		{name: "peer-to-peer, 70 % dead peers", src: addr("10.1.105.2"), network: "tcp", peers: some(5, 400, .7, false, func(i int) uint16 { return uint16(20000 + i*37%p2pPorts) }), every: 250 * time.Millisecond},
	}
}

// run keeps the habit until ctx ends. Who it asks is the same each time.
func (h *habit) run(ctx context.Context, w *town, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ; i++ {
		var order []netip.AddrPort
		for k := range max(1, h.tries) {
			if h.inTurn {
				order = append(order, h.peers[(i+k)%len(h.peers)])
			} else {
				order = append(order, h.peers[r.IntN(len(h.peers))])
			}
		}
		wg.Go(func() {
			_ = w.A.Do(func() error {
				for _, to := range order {
					if h.ask(to) == nil {
						break
					}
				}
				return nil
			})
		})
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ask has one conversation; the thread is among the clients.
func (h *habit) ask(to netip.AddrPort) error {
	h.asked.Add(1)
	d := net.Dialer{Timeout: 5 * time.Second}
	if h.network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.src, 0))
	} else {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.src, 0))
	}
	err := func() error {
		c, err := d.Dial(h.network, to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(d.Timeout)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 64))
		return err
	}()
	if err != nil {
		h.failed.Add(1)
		if good.Contains(to.Addr()) {
			h.surprised.Add(1)
		}
	}
	return err
}

// open has the servers listen on every address.
func (w *town) open(udp, tcp []uint16) {
	w.t.Helper()
	must(w.t, w.B.NFT(fmt.Sprintf("table ip closed { chain c { type filter hook input priority 0; ip daddr %s meta l4proto tcp reject with tcp reset; }; }", closed)))
	for _, port := range tcp {
		_, err := w.ServeTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		must(w.t, err)
	}
	for _, port := range udp {
		w.echo(port)
	}
}

// echo answers from the address that was asked.
func (w *town) echo(port uint16) {
	w.t.Helper()
	var c net.PacketConn
	must(w.t, w.B.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	}))
	p := ipv4.NewPacketConn(c)
	must(w.t, p.SetControlMessage(ipv4.FlagDst, true))
	w.t.Cleanup(func() { must(w.t, c.Close()) })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, cm, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], &ipv4.ControlMessage{Src: cm.Dst}, from)
		}
	}()
}

// metrics has the servers answer to who scrapes them.
func (w *town) metrics(port uint16) {
	w.t.Helper()
	var l net.Listener
	must(w.t, w.B.Do(func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		return err
	}))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "fine 1") })}
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() { must(w.t, s.Close()) })
}

// prometheus is a real one among the clients that scrapes targets.
func (w *town) prometheus(targets []netip.AddrPort) {
	w.t.Helper()
	dir := w.t.TempDir()
	var list []string
	for _, p := range targets {
		list = append(list, fmt.Sprintf("%q", p))
	}
	must(w.t, os.WriteFile(dir+"/prometheus.yml", fmt.Appendf(nil, `global: {scrape_interval: 15s, scrape_timeout: 5s}
scrape_configs:
- job_name: town
  static_configs: [{targets: [%s]}]
`, strings.Join(list, ", ")), 0o600))
	cmd := exec.Command("prometheus", "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address=127.0.0.1:9090", "--log.level=warn")
	must(w.t, w.A.Do(cmd.Start))
	w.t.Cleanup(func() {
		must(w.t, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait()
	})
}

// sum asks the Prometheus among the clients.
func (w *town) sum(query string) (answer string) {
	w.t.Helper()
	must(w.t, w.A.Do(func() error {
		c, err := net.Dial("tcp", "127.0.0.1:9090")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET /api/v1/query?query=%s HTTP/1.0\r\n\r\n", query); err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	}))
	return answer
}

// cut has everything lost on the way to the servers, and tells how to end that.
func (w *town) cut() (mend func()) {
	w.t.Helper()
	must(w.t, w.B.NFT("table ip cut { chain c { type filter hook prerouting priority -300; drop; }; }"))
	return func() { must(w.t, w.B.NFT("delete table ip cut")) }
}

// Honest clients fail, too, and come back to what fails; then everybody fails, for a
// minute. None of that is an attack.
func TestHonest(t *testing.T) {
	if k := lab.KernelName(); k != "" && k != "6.12" {
		t.Skip("takes minutes, and nothing in it depends on the kernel: runs on 6.12")
	}
	w := newTown(t, []netip.Prefix{netip.MustParsePrefix("10.3.0.0/16")}, "prometheus")
	ports := []uint16{25, 443, 8080}
	for i := range uint16(64) {
		ports = append(ports, 20000+i)
	}
	w.open([]uint16{53}, ports)
	w.metrics(9100)
	d := w.detect()
	long := soakFor
	if s := os.Getenv("CTSIGHT_SOAK"); s != "" {
		var err error
		long, err = time.ParseDuration(s)
		must(t, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	w.prometheus(some(6, 100, .3, false, always(9100)))
	all := habits()
	var wg sync.WaitGroup
	for i, h := range all {
		wg.Go(func() { h.run(ctx, w, uint64(i)) })
	}
	time.Sleep((long - cutFor) / 2)
	var before []int64
	for _, h := range all {
		before = append(before, h.surprised.Load())
	}
	if up := w.sum("sum(up)"); !strings.Contains(up, `,"70"]`) {
		t.Errorf("Prometheus has not found 70 of 100 targets: %s", up)
	}
	cut := time.Now()
	mend := w.cut()
	time.Sleep(cutFor)
	mend()
	mended := time.Now()
	wg.Wait()
	time.Sleep(5 * time.Second)
	lines := d.stop()
	for i, h := range all {
		t.Logf("%s (%s): %d asked, %d failed", h.name, h.src, h.asked.Load(), h.failed.Load())
		if before[i] > 0 || h.asked.Load() < 50 || h.surprised.Load() == 0 {
			t.Errorf("%s: %d peers that are alive failed before the cut, %d in all", h.name, before[i], h.surprised.Load())
		}
	}
	judge(t, incidents(lines, func(*finding) bool { return true }), cut, mended)
}

// harmless are classes that are no accusation.
var harmless = []string{"polling_dead_targets", "retry_storm", "service_down", "rate_burst", "new_connection_pattern"}

// judge prints everything that was found, and fails for what is confirmed and accuses
// somebody. That the uplink is gone is true.
func judge(t *testing.T, found []incident, cut, mended time.Time) {
	t.Helper()
	if len(found) == 0 {
		t.Log("nothing was found at all")
	}
	outage := false
	for _, i := range found {
		for k := range i {
			t.Logf("%s at %+.1f s of the cut: %s", i[k].Severity, i[k].Time.Sub(cut).Seconds(), &i[k])
		}
		for k := range i {
			f := &i[k]
			switch {
			case f.State != "confirmed", slices.Contains(harmless, f.Class) && f.Severity == "info":
			case f.Class == "upstream_outage" && f.Time.After(cut) && f.Time.Before(mended.Add(10*time.Second)):
				outage = true
			default:
				t.Errorf("false alarm: %s", f.line)
			}
		}
	}
	if !outage {
		t.Error("nobody says that the uplink was gone")
	}
}
