package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/cert"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
)

// onHost skips where there is no real time.
func onHost(t *testing.T) {
	t.Helper()
	lab.NeedRoot(t)
	if lab.InVM() {
		t.Skip("an attack needs a machine that is not emulated")
	}
}

// What must hold while a server is attacked.
const (
	mayTake   = time.Second // a healthy scrape
	mayGrow   = 10 << 10    // KiB of resident memory
	attackFor = 1200 * time.Millisecond
)

// scraper is a healthy one.
type scraper struct {
	client http.Client
	took   []time.Duration // an error took for ever
	err    error           // the last
}

func newScraper(keeps bool) *scraper {
	t := &http.Transport{DisableKeepAlives: !keeps, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	return &scraper{client: http.Client{Timeout: 5 * time.Second, Transport: t}}
}

func (s *scraper) scrape(url string) error {
	r, err := s.client.Get(url + "/metrics")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && (r.StatusCode != http.StatusOK || !bytes.Contains(b, []byte("\nctsight_tracing 1\n"))) {
		err = fmt.Errorf("%s, %d bytes", r.Status, len(b))
	}
	return err
}

// run scrapes until ctx ends.
func (s *scraper) run(ctx context.Context, url string) {
	for tick := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; <-tick.C {
		begin := time.Now()
		err := s.scrape(url)
		took := time.Since(begin)
		if err != nil {
			s.err, took = err, math.MaxInt64
		}
		s.took = append(s.took, took)
	}
}

// of returns how long at most the fastest so many percent took.
func (s *scraper) of(percent int) time.Duration {
	slices.Sort(s.took)
	return s.took[(len(s.took)*percent+99)/100-1]
}

func (s *scraper) String() string {
	ms := func(percent int) time.Duration { return s.of(percent).Round(time.Millisecond) }
	return fmt.Sprintf("%d: %v %v", len(s.took), ms(50), ms(90))
}

// besieged is a server and who scrapes it.
type besieged struct {
	*sidecar.Sidecar
	server string // as attackers are told
	kept   *scraper
}

// besiege takes a server that answers and lets it come to rest.
func besiege(t *testing.T, s *sidecar.Sidecar) *besieged {
	u, err := url.Parse(s.URL)
	must(t, err)
	b := &besieged{Sidecar: s, server: u.Host, kept: newScraper(true)}
	if u.Scheme == "https" {
		b.server = withTLS + u.Host
	}
	eventually(t, "scrapes", func() bool { return b.kept.scrape(s.URL) == nil })
	for range 300 { // those of an hour
		must(t, b.kept.scrape(s.URL))
	}
	return b
}

// under measures healthy scrapes, with a new connection each and with one that is
// kept, and memory while an attack goes on.
func (b *besieged) under(t *testing.T, name string) {
	t.Helper()
	b.kept.took, b.kept.err = nil, nil
	fresh := newScraper(false)
	before := b.Status(t, "VmRSS")
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", b.Cmd.Process.Pid), []byte("5"), 0)) // VmHWM begins anew
	stop := start(t, name, b.server)
	ctx, cancel := context.WithTimeout(t.Context(), attackFor)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { fresh.run(ctx, b.URL) })
	wg.Go(func() { b.kept.run(ctx, b.URL) })
	wg.Wait()
	stop()
	grown := b.Status(t, "VmHWM") - before
	t.Logf("%-22s scrapes (median, nine of ten): %v with a new connection, %v with one that is kept; memory %+d KiB of %d",
		name, fresh, b.kept, grown, before)
	if fresh.of(50) > mayTake || b.kept.of(50) > mayTake {
		t.Errorf("%s: healthy scrapes take too long, last errors %v, %v", name, fresh.err, b.kept.err)
	}
	if grown > mayGrow {
		t.Errorf("%s: memory grows by %d KiB", name, grown)
	}
}

// Whatever others do, who scrapes gets an answer and memory stays.
func TestServeHostile(t *testing.T) {
	onHost(t)
	b := besiege(t, sidecar.Start(t, ctsight(t)))
	for _, name := range []string{"half-open", "half-open and scrapes", "drip", "no reader", "headers", "bodies", "nonsense", "costly answers"} {
		b.under(t, name)
	}
}

// The same with TLS and passwords.
func TestServeHostileTLS(t *testing.T) {
	onHost(t)
	dir := t.TempDir()
	cert.Write(t, dir, 1)
	write(t, filepath.Join(dir, "web.yml"), "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"+
		"basic_auth_users: {scraper: '$2a$10$I4mt6HhM.Vr2WkmvLE9UleUISB5215JdiwlGxsjkyP7BRh2qku0lC'}\n")
	s := sidecar.Launch(t, ctsight(t), "--web.config.file", filepath.Join(dir, "web.yml"))
	s.URL = strings.Replace(s.URL, "http://", "https://scraper:right@", 1)
	b := besiege(t, s)
	for _, name := range []string{"no handshake", "half-open TLS", "rapid reset", "h2 floods", "passwords"} {
		b.under(t, name)
	}
}

// With few descriptors there are few places; tracing keeps its own, and nobody
// accepts in a busy loop.
func TestServeFewDescriptors(t *testing.T) {
	onHost(t)
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("needs prlimit, of util-linux")
	}
	const few = 128
	serve := ctsight(t)
	prlimit := exec.Command("prlimit", fmt.Sprintf("--nofile=%d", few), serve.Path)
	prlimit.Env = serve.Env
	b := besiege(t, sidecar.Start(t, prlimit))
	stop := start(t, "half-open", b.server)
	before, begin := b.cpu(t), time.Now()
	for time.Since(begin) < attackFor {
		if n := b.Descriptors(t); n > few-16 {
			t.Errorf("%d descriptors of %d are in use", n, few)
		}
		time.Sleep(20 * time.Millisecond)
	}
	used := b.cpu(t) - before
	stop()
	t.Logf("%v of CPU in %v", used, attackFor)
	if used > attackFor/2 {
		t.Errorf("%v of CPU in %v", used, attackFor)
	}
	must(t, b.kept.scrape(b.URL))
}

// cpu is the time it has run, in steps of 10 ms.
func (b *besieged) cpu(t *testing.T) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.Cmd.Process.Pid))
	must(t, err)
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')'):]))
	user, err := strconv.Atoi(f[12])
	must(t, err)
	system, err := strconv.Atoi(f[13])
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}
