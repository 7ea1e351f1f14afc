package feed

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
)

// fences are the code blocks of docs/feed.md in a language.
func fences(t *testing.T, language string) (out []string) {
	t.Helper()
	if lab.InVM() {
		t.Skip("the docs are not in the guest")
	}
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(read(t, "../../docs/feed.md"), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatalf("no %s in docs/feed.md", language)
	}
	return out
}

// What is shown is what is shipped, and what is taken.
func TestDocsFiles(t *testing.T) {
	ini := fences(t, "ini")
	for i, file := range []string{"filter.d/ctsight.conf", "jail.d/ctsight.conf"} {
		shipped := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(read(t, "../../deploy/example/fail2ban/"+file), "")
		if d := cmp.Diff(shipped, ini[i]); d != "" {
			t.Errorf("%s:\n%s", file, d)
		}
	}
	for _, text := range fences(t, "yaml") {
		if _, err := config.Parse("feed.md", []byte(text)); err != nil {
			t.Error(err)
		}
	}
}

// Every command of the docs, as it is written, in a namespace of its own where somebody
// serves at the default port, and with the files at their places.
func TestDocsCommands(t *testing.T) {
	ns, findings := docsPlace(t)
	root := docsFiles(t, findings)
	if out, err := docsRun(ns, root+"true"); err != nil {
		t.Skipf("mounts of a test's own are not possible here: %v %s", err, out)
	}
	for _, block := range fences(t, "sh") {
		for command := range strings.Lines(block) {
			command = strings.TrimSpace(command)
			program, _, _ := strings.Cut(command, " ")
			if _, err := exec.LookPath(program); err != nil || program == "nats" || program == "cscli" {
				t.Logf("not tried here: %s", command) // cscli: TestCrowdSec
				continue
			}
			out, err := docsRun(ns, root+command)
			if err != nil {
				t.Errorf("%s: %v\n%s", command, err, out)
			}
			quiet := strings.Contains(command, " /tmp/") || strings.Contains(command, "nft -c")
			if !quiet && !matches(out, `198\.51\.100\.7|\b1 matched, 0 missed`) {
				t.Errorf("%s: nothing of the scanner:\n%s", command, out)
			}
		}
	}
}

// docsRun runs a command in the namespace, with mounts of its own.
func docsRun(ns *netlab.NS, command string) (out string, err error) {
	err = ns.Do(func() error {
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-e", "-c", command)
		cmd.Env = append(os.Environ(), modules()...)
		b, err := cmd.CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}

// docsPlace is a namespace where the list is served and the table is there.
func docsPlace(t *testing.T) (*netlab.NS, []agg.Finding) {
	t.Helper()
	l := newPlace(t)
	now := time.Now()
	f := scanner("198.51.100.7")
	f.Time, f.First, f.Last, f.Expires, f.Why = now, now, now, now.Add(time.Hour), "198.51.100.7 tried 512 ports"
	list := NewList([]agg.Finding{f}, policy(), now, nil)
	rules := &Ruleset{Hook: "prerouting", Action: "drop", Block: list.Entries()}
	l.sync(l.table(), rules, now)
	var listener net.Listener
	err := l.ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err == nil {
			listener, err = net.Listen("tcp", "127.0.0.1:9781")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", list.ETag())
		if r.URL.Query().Get("format") == "nft" {
			w.Write(rules.Text(now))
			return
		}
		w.Write(list.Text())
	})}
	go s.Serve(listener)
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return l.ns, []agg.Finding{f}
}

// docsFiles returns the commands that put files to their places in a mount namespace.
func docsFiles(t *testing.T, findings []agg.Finding) string {
	t.Helper()
	dir := t.TempDir()
	for form, file := range map[string]string{"json": "findings.json", "eve": "eve.json", "ecs": "ecs.json", "plain": "feed.log"} {
		format, err := NewFormat(form, Options{Host: "gw"})
		if err != nil {
			t.Fatal(err)
		}
		out, err := OpenFile(filepath.Join(dir, file), format)
		if err != nil {
			t.Fatal(err)
		}
		o := NewOutlet(file, out, slog.New(slog.NewTextHandler(io.Discard, nil)))
		for i := range findings {
			o.Tell(Telling{Finding: &findings[i], Unlisted: findings[i].Unlisted(findings[i].Time)})
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		o.Run(ctx)
	}
	filters, err := filepath.Abs("../../deploy/example/fail2ban")
	if err != nil {
		t.Fatal(err)
	}
	return "mount -t tmpfs none /var/log; mkdir /var/log/ctsight; mount --bind " + dir + " /var/log/ctsight; " +
		"mount -t tmpfs none /media; mkdir /media/up /media/work /media/uptmp /media/worktmp; " +
		"mount -t overlay overlay -o lowerdir=/etc,upperdir=/media/up,workdir=/media/work /etc; mkdir -p /etc/fail2ban; cp -r " + filters + "/* /etc/fail2ban/; " +
		"mount -t overlay overlay -o lowerdir=/tmp,upperdir=/media/uptmp,workdir=/media/worktmp /tmp; " // the checkout may be there
}
