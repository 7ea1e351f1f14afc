package serve

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
)

// feedServer is a server whose findings are those of the test, and its configuration.
func feedServer(t *testing.T, text string) (s *server, log *bytes.Buffer, write func(string), found *[]agg.Finding) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yml")
	write = func(text string) {
		t.Helper()
		text = "web: {listen: ['127.0.0.1:0']}\nsandbox: {landlock: off, capabilities: keep}\n" + text
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	log, found = &bytes.Buffer{}, &[]agg.Finding{}
	s, err := newServer(Options{Load: func() (*config.Config, error) { return config.Load(file) }, ConfigFile: file,
		Log: slog.New(slog.NewTextHandler(log, nil)), Level: &slog.LevelVar{}, Stdout: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // it listens
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.web.Serve(ctx)
	})
	s.feeds.lists.Findings = func() []agg.Finding { return *found }
	return s, log, write, found
}

func attacker(s *server, p string) agg.Finding {
	now := time.Now()
	return agg.Finding{ID: p, Class: "scan", State: agg.Confirmed, Severity: agg.Feed, NetNS: s.feeds.own.NetNS,
		Source: netip.MustParsePrefix(p), Time: now, First: now, Last: now, Expires: now.Add(time.Hour)}
}

func listedIn(s *server) string {
	s.feeds.lists.Forget()
	text, _, _ := s.blocklist().Text()
	var out []string
	for line := range strings.Lines(string(text)) {
		if line[0] != '#' {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, " ")
}

// An entry of the allow list is in force as soon as the reload has answered, also for
// who is listed already; a reload that fails changes nothing.
func TestAllowIsLive(t *testing.T) {
	s, log, write, found := feedServer(t, "")
	*found = []agg.Finding{attacker(s, "198.51.100.7/32"), attacker(s, "203.0.113.7/32"), attacker(s, "2001:db8:0:1::/64")}
	if got := listedIn(s); got != "198.51.100.7 203.0.113.7 2001:db8:0:1::/64" {
		t.Fatal(got)
	}
	const entry = "detect: {allow: [{prefix: 198.51.100.0/24, owner: netops, until: never, reason: ours}, {prefix: '2001:db8:0:1::7', owner: x, until: %s}]}\n"
	write(fmt.Sprintf(entry, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
	if err := s.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	text, _, ok := s.blocklist().Text() // without forgetting by the test
	if !ok || strings.Contains(string(text), "198.51.100.7") || listedIn(s) != "203.0.113.7" {
		t.Errorf("%s", text)
	}
	if why := s.allowed(netip.MustParseAddr("198.51.100.7"), time.Now()); why != "allowed by netops for good: ours" {
		t.Error(why)
	}
	if !strings.Contains(log.String(), "ends within a week") {
		t.Error(log.String())
	}
	write("detect: {allow: [{prefix: x}]}\n")
	if err := s.Reload(context.Background()); err == nil || listedIn(s) != "203.0.113.7" {
		t.Error(err, listedIn(s))
	}
	write(fmt.Sprintf(entry, "2020-01-01"))
	if err := s.Reload(context.Background()); err != nil || listedIn(s) != "203.0.113.7 2001:db8:0:1::/64" {
		t.Error(err, listedIn(s))
	}
	if !strings.Contains(log.String(), "hold no more") {
		t.Error(log.String())
	}
}

// Our own addresses are never listed.
func TestOwnAddressesAreAllowed(t *testing.T) {
	s, _, _, found := feedServer(t, "")
	for _, v := range s.feeds.vital {
		*found = append(*found, attacker(s, v.Prefix.String()))
	}
	if len(*found) == 0 {
		t.Fatal("this host has no address")
	}
	if got := listedIn(s); got != "" {
		t.Error(got)
	}
}

// The table is about this network namespace, and off until it is asked for.
func TestBlocks(t *testing.T) {
	s, _, write, found := feedServer(t, "")
	elsewhere, zone := attacker(s, "198.51.100.8/32"), attacker(s, "198.51.100.9/32")
	elsewhere.NetNS++
	zone.Zone = 1
	*found = []agg.Finding{attacker(s, "198.51.100.7/32"), elsewhere, zone}
	if mode, r := s.blocks(time.Now()); mode != 0 || r != nil {
		t.Error(mode, r)
	}
	write("feed: {nft: {enable: true, hook: input, action: count}, blocklist: false}\n")
	if err := s.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	mode, r := s.blocks(time.Now())
	if mode != 2 || r.Hook != "input" || r.Action != "count" || len(r.Block) != 1 || r.Block[0].Prefix.Addr().String() != "198.51.100.7" || len(r.Allow) == 0 {
		t.Errorf("%d %+v", mode, r)
	}
	if _, _, ok := s.blocklist().Text(); ok {
		t.Error("the list is served")
	}
	write("feed: {nft: {enable: true, dry_run: true}}\n")
	if err := s.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if mode, _ := s.blocks(time.Now()); mode != 1 {
		t.Error("a dry run loads")
	}
}

// The file hears of what is told, and is opened before anything else.
func TestFeedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "feed.log")
	s, _, _, _ := feedServer(t, "feed: {file: "+path+", format: plain}\n")
	f, over := attacker(s, "198.51.100.7/32"), attacker(s, "198.51.100.8/32")
	over.State = agg.Cleared
	s.found(&f)
	s.found(&over)
	s.feeds.stop()
	for _, part := range s.feeds.parts()[1:] {
		if err := part(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "\n") != 2 || !strings.Contains(string(text), "ctsight block 198.51.100.7 ") || !strings.Contains(string(text), "ctsight tell 198.51.100.8 ") {
		t.Errorf("%v %s", err, text)
	}
	file := filepath.Join(t.TempDir(), "c.yml")
	os.WriteFile(file, []byte("feed: {file: /proc/none/feed.log}\n"), 0o600)
	_, err = newServer(Options{Load: func() (*config.Config, error) { return config.Load(file) }, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}})
	if err == nil {
		t.Error("a file that cannot be made")
	}
}

// What Landlock has to leave.
func TestFeedIsLeft(t *testing.T) {
	s, _, _, _ := feedServer(t, "")
	c := config.Default()
	c.Feed.File, c.Feed.NATS.URL = "/var/log/ctsight/feed.log", "nats://h:4222"
	o := s.opened(c)
	if fmt.Sprint(o.Write, o.Connect) != "[/var/log/ctsight] [4222]" {
		t.Error(o)
	}
	c.Feed.File = "-"
	if o := s.opened(c); len(o.Write) > 0 {
		t.Error(o)
	}
}
