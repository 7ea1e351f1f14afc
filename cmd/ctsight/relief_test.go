package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/relief"
	"github.com/ctsight/ctsight/internal/triage"
)

// reliefLab is a namespace whose timeouts may be changed, and a journal of its own.
type reliefLab struct {
	t   *testing.T
	ns  *netlab.NS
	dir string
}

func newReliefLab(t *testing.T) *reliefLab {
	t.Helper()
	lab.NeedRoot(t)
	if lab.InVM() {
		trace.LoadModules()
	}
	ns, err := netlab.NewNS()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	l := &reliefLab{t, ns, filepath.Join(t.TempDir(), "relief")}
	if _, err := ns.Sysctl("net.netfilter.nf_conntrack_udp_timeout"); errors.Is(err, os.ErrNotExist) {
		t.Skip("needs nf_conntrack: modprobe nf_conntrack")
	}
	return l
}

func (l *reliefLab) run(args ...string) result {
	l.t.Helper()
	return runCmd(l.t, ctsight(l.t, append([]string{"relief", "--dir", l.dir}, args...)...))
}

// set changes timeouts of the namespace.
func (l *reliefLab) set(args ...string) result {
	l.t.Helper()
	return l.run(append([]string{"set", "--netns", l.ns.Inode().String(), "--reason", "INC-42"}, args...)...)
}

func (l *reliefLab) value(name string) string {
	l.t.Helper()
	v, err := l.ns.Sysctl("net.netfilter.nf_conntrack_" + name)
	must(l.t, err)
	return v
}

// Nothing is changed without --yes; with it, it is there, listed, and goes back by hand
// or, with no daemon alive, by expire. The oracle is the kernel's own file.
func TestRelief(t *testing.T) {
	l := newReliefLab(t)
	found := l.value("udp_timeout")
	if r := l.set("udp_timeout=7", "--for", "1h"); r.code != exitDone || !strings.Contains(r.stdout, "dry run: nothing was changed") || l.value("udp_timeout") != found {
		t.Errorf("%+v, %s", r, l.value("udp_timeout"))
	}
	if _, err := os.Stat(l.dir); err == nil {
		t.Error("a dry run has made a journal")
	}
	if r := l.set("udp_timeout=7", "icmp_timeout=9", "--for", "1h", "--yes"); r.code != exitDone || l.value("udp_timeout") != "7" || l.value("icmp_timeout") != "9" {
		t.Errorf("%+v, %s", r, l.value("udp_timeout"))
	}
	r := l.run("list", "-o", "json")
	var doc struct {
		Changes []struct {
			ID, State, Reason   string
			Open                bool
			Found, Set, Present int
		}
	}
	must(t, json.Unmarshal([]byte(r.stdout), &doc))
	if len(doc.Changes) != 2 || doc.Changes[0].Set != doc.Changes[0].Present || !doc.Changes[0].Open || doc.Changes[0].Reason != "INC-42" {
		t.Fatalf("%s", r.stdout)
	}
	if r := l.run("expire"); r.code != exitDone || l.value("udp_timeout") != "7" {
		t.Errorf("%+v", r)
	}
	if r := l.run("revert", doc.Changes[0].ID); r.code != exitDone || !strings.Contains(r.stdout, "reverted") {
		t.Errorf("%+v", r)
	}
	if r := l.run("revert", doc.Changes[0].ID); r.code != exitFailed || !strings.Contains(r.stderr, "reverted already") {
		t.Errorf("%+v", r)
	}
	if r := l.run("revert", "--all"); r.code != exitDone || l.value("udp_timeout") != found || l.value("icmp_timeout") == "9" {
		t.Errorf("%+v", r)
	}
	if r := l.run("list"); strings.Count(r.stdout, "reverted") != 2 {
		t.Errorf("%s", r.stdout)
	}

	if r := l.set("udp_timeout=7", "--for", "1s", "--yes"); r.code != exitDone {
		t.Errorf("%+v", r)
	}
	for end := time.Now().Add(patience); l.value("udp_timeout") != found; time.Sleep(100 * time.Millisecond) {
		if r := l.run("expire"); r.code != exitDone || time.Now().After(end) {
			t.Fatalf("%+v", r)
		}
	}
	if r := l.run("expire"); r.code != exitDone || r.stdout != "no changes\n" {
		t.Errorf("%+v", r)
	}
}

// What triage proposes for a namespace is typed as it stands, and so is what takes it back.
func TestReliefOfTriage(t *testing.T) {
	l := newReliefLab(t)
	found := l.value("udp_timeout")
	d := &triage.Doc{Focus: agg.TableState{NetNS: l.ns.Inode(), Entries: 900, Max: 1000, Level: agg.LevelAction}, Enter: triage.EnterName("x"), Held: &agg.Holdings{}, Timeouts: map[string]int{"udp_timeout": 30}}
	for range 900 {
		d.Held.Add(&event.Tuple{Proto: event.ProtoUDP}, 0, 0, time.Second)
	}
	d.Judge()
	i := slices.IndexFunc(d.Actions, func(a triage.Action) bool { return strings.Contains(a.Command, "udp_timeout") })
	if i < 0 {
		t.Fatalf("%+v", d.Actions)
	}
	typed := func(command string) result {
		args, ok := strings.CutPrefix(command, "ctsight relief ")
		if !ok {
			t.Fatal(command)
		}
		return l.run(strings.Fields(args)...)
	}
	if r := typed(d.Actions[i].Command); r.code != exitDone || l.value("udp_timeout") != "10" {
		t.Errorf("%+v, %s", r, l.value("udp_timeout"))
	}
	if r := typed(d.Actions[i].Undo); r.code != exitDone || l.value("udp_timeout") != found {
		t.Errorf("%+v, %s", r, l.value("udp_timeout"))
	}
	oneError(t, typed(d.Actions[i].Undo), exitUsage, "no change \"nf_conntrack_udp_timeout\" that is open")
}

// A set that is killed at any moment leaves nothing that the next command does not put
// right: how long it takes is of this machine, so the moments are parts of that.
func TestReliefKilled(t *testing.T) {
	l := newReliefLab(t)
	found := l.value("udp_timeout")
	args := []string{"relief", "--dir", l.dir, "set", "--netns", l.ns.Inode().String(), "--reason", "INC-42", "udp_timeout=7", "--for", "1h", "--yes"}
	begin := time.Now()
	runCmd(t, ctsight(t, args...))
	whole := time.Since(begin)
	must(t, os.RemoveAll(l.dir))
	must(t, relief.Proc{}.Write(relief.Place{NetNS: l.ns.Inode()}, "nf_conntrack_udp_timeout", 30))
	was := map[string]int{}
	const rounds = 40
	for i := range rounds {
		cmd := ctsight(t, args...)
		must(t, cmd.Start())
		time.Sleep(whole * time.Duration(i) / rounds)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		was[l.value("udp_timeout")]++
		if r := l.run("revert", "--all"); r.code != exitDone || l.value("udp_timeout") != found {
			t.Errorf("after %d of %d: %+v, it is %s", i, rounds, r, l.value("udp_timeout"))
		}
	}
	t.Logf("values when it was killed: %v", was)
	if r := l.run("list", "-o", "json"); r.code != exitDone || strings.Contains(r.stdout, `"open":true`) {
		t.Errorf("%+v", r)
	}
}

// A journal that is damaged, or of a newer ctsight, is one line of error, and nothing
// is changed.
func TestReliefDamaged(t *testing.T) {
	l := newReliefLab(t)
	if r := l.set("udp_timeout=7", "--for", "1s", "--yes"); r.code != exitDone {
		t.Fatalf("%+v", r)
	}
	files, err := filepath.Glob(l.dir + "/*.json")
	must(t, err)
	data, err := os.ReadFile(files[0])
	must(t, err)
	must(t, os.WriteFile(files[0], []byte(strings.Replace(string(data), `"version": 1`, `"version": 2`, 1)), 0o644))
	time.Sleep(time.Second) // its time is over
	for _, args := range []string{"list", "expire", "revert --all"} {
		if r := l.run(strings.Fields(args)...); r.code != exitFailed || !strings.Contains(r.stderr, "version 2, this ctsight knows 1 only") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if l.value("udp_timeout") != "7" {
		t.Errorf("it is %s", l.value("udp_timeout"))
	}
}

// The commands of the docs are there, and do what they say: as written, but in a
// namespace, with a journal of its own, and what is for the host without --yes.
func TestReliefDocs(t *testing.T) {
	if lab.InVM() {
		t.Skip("the docs are not in the guest")
	}
	l := newReliefLab(t)
	data, err := os.ReadFile("../../docs/relief.md")
	must(t, err)
	n := 0
	for _, b := range block.FindAllStringSubmatch(string(data), -1) {
		for _, m := range regexp.MustCompile(`(?m)^\$? ?ctsight (relief [^#\n]*)`).FindAllStringSubmatch(b[1], -1) {
			n++
			id := ""
			if open := l.run("list", "-o", "json"); strings.Contains(open.stdout, `"id":"`) {
				id = regexp.MustCompile(`"id":"([0-9a-f]+)"`).FindStringSubmatch(open.stdout)[1]
			}
			args := strings.Fields(strings.NewReplacer("3f9c12ab", id, "--netns router", "--netns "+l.ns.Inode().String()).Replace(m[1]))
			if !strings.Contains(m[1], "--netns") && args[1] == "set" {
				for i := range args {
					if args[i] == "--yes" {
						args = append(args[:i], args[i+1:]...)
						break
					}
				}
			}
			if r := runCmd(t, ctsight(t, append(args, "--dir", l.dir)...)); r.code != exitDone {
				t.Errorf("%s: %+v", m[1], r)
			}
		}
	}
	if n < 6 {
		t.Errorf("only %d commands", n)
	}
}
