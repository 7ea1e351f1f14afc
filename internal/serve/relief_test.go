package serve

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/relief"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The daemon takes back what is over, leaves alone what others have written, and tells
// of both in its log and its metrics.
func TestReliefs(t *testing.T) {
	lab.NeedRoot(t)
	if lab.InVM() {
		trace.LoadModules()
	}
	ns, err := netlab.NewNS()
	must(t, err)
	defer ns.Close()
	const udp, icmp = "nf_conntrack_udp_timeout", "nf_conntrack_icmp_timeout"
	value := func(name string) string {
		v, err := ns.Sysctl("net.netfilter." + name)
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs nf_conntrack: modprobe nf_conntrack")
		}
		must(t, err)
		return v
	}
	found := value(udp)
	var place relief.Place
	all, err := ctnl.ListAllNetNS()
	must(t, err)
	for _, n := range all {
		if n.Inode == ns.Inode() {
			place, err = relief.PlaceOf(n)
			must(t, err)
		}
	}

	var log bytes.Buffer
	c := config.Default()
	c.Relief.Dir = filepath.Join(t.TempDir(), "relief")
	s := &server{log: slog.New(slog.NewTextHandler(&log, nil))}
	r, err := s.newReliefs(c)
	must(t, err)
	r.look() // there is no journal yet
	if len(r.now()) > 0 || log.Len() > 0 || r.written(c) != nil {
		t.Errorf("%+v %s", r.now(), &log)
	}
	host := r.book.Host
	setter := &relief.Book{Disk: r.book.Disk, Kernel: relief.Proc{}, Host: host}
	_, err = setter.Set(relief.Request{Asks: []relief.Ask{{Sysctl: udp, Value: 7}, {Sysctl: icmp, Value: 8}}, Place: place, For: time.Hour, Reason: "INC-42", Share: 0.25})
	must(t, err)
	r.look()
	if len(r.now()) != 2 || value(udp) != "7" || r.written(c)[0] != c.Relief.Dir {
		t.Errorf("%+v, %s", r.now(), value(udp))
	}
	metrics := func() string {
		t.Helper()
		reg := prometheus.NewPedanticRegistry()
		must(t, reg.Register(r))
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
		mfs, err := reg.Gather()
		must(t, err)
		var b strings.Builder
		for _, mf := range mfs {
			for _, m := range mf.Metric {
				b.WriteString(mf.GetName())
				for _, l := range m.Label {
					b.WriteString(" " + l.GetValue())
				}
				b.WriteString(map[bool]string{true: " 1", false: " not 1"}[m.Gauge.GetValue() == 1] + "\n")
			}
		}
		return b.String()
	}
	if m := metrics(); !strings.Contains(m, "ctsight_relief_active "+udp+" 1\n") || !strings.Contains(m, "ctsight_relief_expires_timestamp_seconds "+ns.Inode().String()+" "+udp) {
		t.Errorf("%s", m)
	}

	must(t, relief.Proc{}.Write(place, icmp, 20)) // somebody else
	r.book.Host.Now = func() time.Time { return host.Now().Add(2 * time.Hour) }
	for range 3 {
		r.look()
	}
	if value(udp) != found || value(icmp) != "20" {
		t.Errorf("%s %s", value(udp), value(icmp))
	}
	if m := metrics(); strings.Contains(m, "ctsight_relief_active "+udp+" 1\n") || !strings.Contains(m, "ctsight_relief_left_alone "+icmp+" 1\n") {
		t.Errorf("%s", m)
	}
	if text := log.String(); strings.Count(text, "reverted") != 1 || strings.Count(text, "left alone") < 1 || strings.Count(text, "\n") != 2 {
		t.Errorf("%s", text)
	}

	// What it cannot do is told once.
	log.Reset()
	must(t, os.WriteFile(c.Relief.Dir+"/01234567.json", []byte("garbage"), 0o644))
	for range 3 {
		r.look()
	}
	if text := log.String(); strings.Count(text, "01234567.json") != 1 || len(r.now()) != 2 {
		t.Errorf("%s %+v", text, r.now())
	}
}
