package scenario

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/netlab"
)

// guard is a `ctsight serve` in the router that blocks, and who asks it.
type guard struct {
	*exec.Cmd
	client *http.Client
	dir    string
	ended  chan error
}

// watchOver starts it in the router's namespace, where its own table is to be.
func watchOver(t *testing.T, r *netlab.Router, config string) *guard {
	t.Helper()
	g := &guard{dir: t.TempDir(), ended: make(chan error, 1)}
	socket, file := filepath.Join(g.dir, "web"), filepath.Join(g.dir, "c.yml")
	must(t, os.WriteFile(file, []byte(config), 0o600))
	g.Cmd = exec.Command("ctsight", "serve", "--config.file", file, "--web.listen-address", "unix:"+socket,
		"--feed", filepath.Join(g.dir, "feed.log"), "--feed-format", "plain", "--feed-nft")
	log, err := os.Create(filepath.Join(g.dir, "said"))
	must(t, err)
	g.Stderr = log
	must(t, r.R.Do(g.Start))
	go func() { g.ended <- g.Wait() }()
	g.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	t.Cleanup(func() {
		_ = g.Process.Kill() // ended already where all is well
		log.Close()
		if t.Failed() {
			t.Logf("serve said:\n%s\nfeed:\n%s", g.read(t, "said"), g.read(t, "feed.log"))
		}
	})
	until(t, "serve traces", func() bool { _, code := g.get("/-/ready"); return code == http.StatusOK })
	return g
}

func (g *guard) get(path string) (string, int) {
	a, err := g.client.Get("http://serve" + path)
	if err != nil {
		return err.Error(), 0
	}
	defer a.Body.Close()
	b, _ := io.ReadAll(a.Body)
	return string(b), a.StatusCode
}

func (g *guard) read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	must(t, err)
	return string(b)
}

// reach says whether a source of A can make a new connection.
func reach(t *testing.T, r *netlab.Router, from netip.Addr, to netip.AddrPort, patience time.Duration) bool {
	t.Helper()
	c, err := r.ConnectTCP(t.Context(), netlab.ConnectOptions{N: 1, Src: netlab.Addrs{First: from, N: 1}, Dst: to, Timeout: patience})
	must(t, err)
	return c.OK == 1
}

// A scanner that has finished a handshake is told, listed and blocked; the one beside
// him that is allowed scans as much and is not, and who is in the middle of something stays.
// Killed, serve blocks nobody for longer than its lease; ended, nobody at all.
func TestFeedBlocks(t *testing.T) {
	const foreign = "table inet theirs { chain c { type filter hook prerouting priority -110; policy accept; }; }"
	scanner, friend, other := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.8"), netip.MustParseAddr("198.51.100.9")
	r := router(t, netlab.Options{Name: "feed", ClientNets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	must(t, r.R.NFT(foreign))
	open := netip.AddrPortFrom(netlab.ServerV4, 443)
	service, err := r.ServeTCP(open)
	must(t, err)
	defer service.Close()
	theirs := func() string {
		out, err := r.R.Run("nft", "-a", "list", "table", "inet", "theirs")
		must(t, err)
		return out
	}
	before := theirs()
	g := watchOver(t, r, "detect: {allow: [{prefix: 198.51.100.8, owner: netops, until: never, reason: our scanner}]}\n")
	for _, from := range []netip.Addr{scanner, friend} {
		if !reach(t, r, from, open, 0) { // and so is known not to be forged
			t.Fatalf("%s does not get through", from)
		}
		_, err := r.ConnectScan(t.Context(), netlab.ConnectOptions{Src: netlab.Addrs{First: from, N: 1}, Dst: open}, netlab.Ports{First: 400, N: 60})
		must(t, err)
	}
	until(t, "the scanner is listed", func() bool { text, _ := g.get("/blocklist"); return strings.Contains(text, "\n198.51.100.7\n") })
	until(t, "both are told", func() bool {
		text := g.read(t, "feed.log")
		return strings.Contains(text, "ctsight block 198.51.100.7 ") && strings.Contains(text, "ctsight tell 198.51.100.8 ")
	})
	if text, _ := g.get("/blocklist"); strings.Contains(text, "198.51.100.8") || strings.Contains(g.read(t, "feed.log"), "block 198.51.100.8") {
		t.Errorf("the friend is blocked:\n%s%s", text, g.read(t, "feed.log"))
	}
	table := func() string { out, _ := r.R.Run("nft", "list", "table", "inet", "ctsight"); return out }
	blocked := regexp.MustCompile(`block4 \{[^}]*198\.51\.100\.7 timeout (\S+) expires`)
	until(t, "the scanner is in the table", func() bool { return blocked.MatchString(table()) })
	if reach(t, r, scanner, open, time.Second) || !reach(t, r, friend, open, 0) || !reach(t, r, other, open, 0) {
		t.Errorf("who gets through is wrong:\n%s", table())
	}

	// What nft would be told is what is loaded; it takes it.
	text, _ := g.get("/blocklist?format=nft")
	if out, err := nftCheck(r, text); err != nil || !strings.Contains(text, "198.51.100.7 timeout") {
		t.Errorf("nft -c: %v %s\n%s", err, out, text)
	}
	if after := theirs(); after != before {
		t.Errorf("somebody else's table has changed:\n%s\n%s", before, after)
	}
	_, err = r.R.Run("nft", "flush", "ruleset")
	must(t, err)
	must(t, r.R.NFT(foreign))
	before = theirs()
	until(t, "the table is there again", func() bool { return blocked.MatchString(table()) })

	// Killed: the table stays, for the lease; the next one takes it over, and with a list
	// of nobody removes it.
	must(t, g.Process.Signal(syscall.SIGKILL))
	<-g.ended
	if m := blocked.FindStringSubmatch(table()); m == nil || !strings.HasPrefix(m[1]+"m", "10m") && !strings.HasPrefix(m[1], "9m") && !strings.HasPrefix(m[1], "5m") {
		t.Errorf("the lease is %v:\n%s", m, table())
	}
	g = watchOver(t, r, "")
	until(t, "what was left is removed", func() bool { return table() == "" || !strings.Contains(table(), "chain") })
	if !reach(t, r, scanner, open, 0) {
		t.Error("blocked by nobody")
	}
	must(t, g.Process.Signal(syscall.SIGTERM))
	if err := <-g.ended; err != nil {
		t.Error(err)
	}
	if out := table(); strings.Contains(out, "chain") {
		t.Errorf("left behind:\n%s", out)
	}
	if after := theirs(); after != before {
		t.Errorf("somebody else's table has changed:\n%s\n%s", before, after)
	}
}

func nftCheck(r *netlab.Router, ruleset string) (out string, err error) {
	err = r.R.Do(func() error {
		cmd := exec.Command("nft", "-c", "-f", "-")
		cmd.Stdin = strings.NewReader(ruleset)
		b, err := cmd.CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}
