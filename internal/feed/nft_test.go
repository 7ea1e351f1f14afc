package feed

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/netlab"
)

// place is a network namespace of the test with rules of somebody else in it, and nft.
type place struct {
	t  testing.TB
	ns *netlab.NS
}

// foreign is what others have: a set with a timeout like ours, a chain at the hook that
// we use, and names that are nearly ours.
const foreign = `table inet filter {
	set ctsight { type ipv4_addr; flags timeout; elements = { 203.0.113.1 timeout 1d }; }
	chain input { type filter hook prerouting priority -110; policy accept; ip saddr 203.0.113.9 counter drop; }
}
table ip ctsight {
	chain block { type filter hook input priority 0; policy accept; tcp dport 22 accept; }
}
table inet ctsight2 {
	set block4 { type ipv4_addr; elements = { 203.0.113.2 }; }
}
`

func newPlace(t testing.TB) place {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not here: make test installs it")
	}
	ns, err := netlab.NewNS()
	if errors.Is(err, netlab.ErrPrivilege) {
		t.Skip("network namespaces need root")
	}
	if err != nil {
		t.Fatal(err)
	}
	l := place{t, ns}
	l.load(foreign)
	return l
}

// nft runs it in the namespace.
func (l place) nft(args ...string) string {
	l.t.Helper()
	out, err := l.try(args...)
	if err != nil {
		l.t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (l place) try(args ...string) (out string, err error) {
	err = l.ns.Do(func() error {
		b, err := exec.Command("nft", args...).CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}

func (l place) load(ruleset string, args ...string) {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "ruleset")
	if err := os.WriteFile(file, []byte(ruleset), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.nft(append(args, "-f", file)...)
}

// others is all of the ruleset but our table, with handles, and without what counts down.
func (l place) others() string {
	out := ours.ReplaceAllString(l.nft("-a", "list", "ruleset"), "")
	return regexp.MustCompile(`expires \S+`).ReplaceAllString(out, "")
}

var ours = regexp.MustCompile(`(?ms)^table inet ctsight \{.*?^\}\n`)

// table is our table's connection in the namespace.
func (l place) table() *Table {
	l.t.Helper()
	var t *Table
	if err := l.ns.Do(func() (err error) { t, err = NewTable(l.ns.FD()); return err }); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { t.Close() })
	return t
}

func (l place) sync(t *Table, r *Ruleset, now time.Time) (healed bool) {
	l.t.Helper()
	healed, err := t.Sync(r, now)
	if err != nil {
		l.t.Fatal(err)
	}
	return healed
}

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a := netip.MustParseAddr(s)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p)
	}
	return out
}

func listed(end time.Time, all ...string) (out []Listed) {
	for _, p := range prefixes(all...) {
		out = append(out, Listed{p, end})
	}
	return out
}

// some has every kind of element, neighbours that touch, and the ends of both spaces.
func some(now time.Time) *Ruleset {
	return &Ruleset{Hook: "prerouting", Action: "drop",
		Allow: prefixes("10.0.0.0/9", "10.128.0.0/9", "192.0.2.1", "240.0.0.0/4", "2001:db8:a::/48", "2001:db8:b::1", "ffff::/16"),
		Block: listed(now.Add(5*time.Minute), "198.51.100.7", "198.51.100.8", "198.51.100.0/24", "198.51.101.0/24", "203.0.113.77",
			"2001:db8::7", "2001:db8:0:1::/64", "2001:db8:0:2::/64", "2001:db8:7::/48")}
}

// What we tell the kernel over netlink is what nft makes of the text of the dry run.
func TestTextAndKernelAreTheSame(t *testing.T) {
	now := time.Now()
	for _, hook := range []string{"prerouting", "input", "forward"} {
		for _, action := range []string{"drop", "count"} {
			a, b := newPlace(t), newPlace(t)
			r := some(now)
			r.Hook, r.Action = hook, action
			a.sync(a.table(), r, now)
			text := string(r.Text(now))
			b.load(text, "-c")
			b.load(text)
			b.load(text) // again
			clean := func(l place) string {
				return regexp.MustCompile(` expires [0-9a-z]+`).ReplaceAllString(l.nft("list", "table", "inet", "ctsight"), "")
			}
			if d := cmp.Diff(clean(b), clean(a)); d != "" {
				t.Errorf("%s %s (-nft +kernel):\n%s", hook, action, d)
			}
		}
	}
	// With nobody in it too: -c takes it.
	newPlace(t).load(string((&Ruleset{Hook: "input", Action: "drop"}).Text(now)), "-c")
}

// Whatever we do, rules of others are the same bytes before and after.
func TestOthersAreLeftAlone(t *testing.T) {
	l := newPlace(t)
	before := l.others()
	if strings.Count(before, "table ") != 3 {
		t.Fatalf("the test is wrong:\n%s", before)
	}
	now := time.Now()
	r := some(now)
	table := l.table()
	for _, step := range []func(){
		func() { l.sync(table, r, now) },
		func() { r.Block = r.Block[2:]; l.sync(table, r, now) },
		func() { r.Hook = "forward"; l.sync(table, r, now) },
		func() { l.nft("delete", "table", "inet", "ctsight"); l.sync(table, r, now) },
		func() { r.Block = nil; l.sync(table, r, now) },
		func() { *r = *some(now); l.sync(table, r, now) },
		func() { table.Remove() },
	} {
		step()
		if d := cmp.Diff(before, l.others()); d != "" {
			t.Fatalf("-before +after:\n%s", d)
		}
	}
	if out := l.nft("list", "tables"); strings.Contains(out, "table inet ctsight\n") {
		t.Errorf("our table is still there:\n%s", out)
	}
}

// A table of our name that we have not made is somebody's.
func TestForeignTableOfOurName(t *testing.T) {
	l := newPlace(t)
	l.nft("add", "table", "inet", "ctsight")
	l.nft("add", "set", "inet", "ctsight", "mine", "{ type ipv4_addr; }")
	before := l.nft("list", "ruleset")
	table := l.table()
	if _, err := table.Sync(some(time.Now()), time.Now()); !errors.Is(err, ErrForeignTable) {
		t.Error(err)
	}
	if err := table.Remove(); !errors.Is(err, ErrForeignTable) {
		t.Error(err)
	}
	if d := cmp.Diff(stateless(before), stateless(l.nft("list", "ruleset"))); d != "" {
		t.Error(d)
	}
}

// Two in one namespace would undo each other's work.
func TestOneTable(t *testing.T) {
	l := newPlace(t)
	first := l.table()
	again := func() (err error) {
		return l.ns.Do(func() error {
			t, err := NewTable(l.ns.FD())
			if err == nil {
				err = t.Close()
			}
			return err
		})
	}
	if err := again(); !errors.Is(err, ErrTableInUse) {
		t.Error(err)
	}
	newPlace(t).table() // another namespace is another table
	first.Close()
	if err := again(); err != nil {
		t.Error(err)
	}
}

// What somebody does to our table is mended, what he does elsewhere is not our business.
func TestHeals(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		nft    string
		healed bool
	}{
		"nothing":            {"list ruleset", false},
		"somebody else's":    {"add table inet other", false},
		"table deleted":      {"delete table inet ctsight", true},
		"all flushed":        {"flush ruleset", true},
		"chain flushed":      {"flush chain inet ctsight block", true},
		"set flushed":        {"flush set inet ctsight block6_nets", true},
		"element gone":       {"delete element inet ctsight block4 { 198.51.100.7 }", true},
		"element added":      {"add element inet ctsight block4 { 192.0.2.99 }", true},
		"prefix added":       {"add element inet ctsight block4_nets { 192.0.2.0/25 }", true},
		"allow list emptied": {"flush set inet ctsight allow4", true},
		"rule added":         {"insert rule inet ctsight block drop", true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newPlace(t)
			table, r := l.table(), some(now)
			l.sync(table, r, now)
			if l.sync(table, r, now) {
				t.Fatal("healed what nobody has touched")
			}
			want := l.nft("-s", "list", "table", "inet", "ctsight")
			l.nft(strings.Fields(c.nft)...)
			loads := table.Stats().Loads
			if l.sync(table, r, now) != c.healed {
				t.Errorf("healed is not %v", c.healed)
			}
			if again := table.Stats().Loads != loads; again != c.healed {
				t.Errorf("loaded again: %v", again)
			}
			if d := cmp.Diff(stateless(want), stateless(l.nft("-s", "list", "table", "inet", "ctsight"))); d != "" {
				t.Error(d)
			}
			if l.sync(table, r, now) {
				t.Error("healed twice")
			}
		})
	}
}

func stateless(s string) string {
	return regexp.MustCompile(` expires [0-9a-z]+`).ReplaceAllString(s, "")
}

// elements are those of all block sets, by nft.
func (l place) elements() map[string]bool {
	out := map[string]bool{}
	for _, k := range setKinds {
		if k.pass {
			continue
		}
		text := l.nft("list", "set", "inet", "ctsight", k.name)
		for _, m := range regexp.MustCompile(`([0-9a-f:./]+) timeout`).FindAllStringSubmatch(text, -1) {
			out[m[1]] = true
		}
	}
	return out
}

// Fifty thousand come, are renewed, go one by one, and expire by themselves.
func TestFiftyThousand(t *testing.T) {
	const n = 50_000
	l := newPlace(t)
	before := l.others()
	table, now := l.table(), time.Now()
	r := &Ruleset{Hook: "prerouting", Action: "drop"}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			a := netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
			if i%10 == 0 {
				b := [16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(i >> 8), byte(i)}
				r.Block = append(r.Block, Listed{netip.PrefixFrom(netip.AddrFrom16(b), 64), now.Add(time.Hour)})
				continue
			}
			r.Block = append(r.Block, Listed{netip.PrefixFrom(a, 32), now.Add(time.Hour)})
		}
	}
	timed := func(what string, f func()) time.Duration {
		begin := time.Now()
		f()
		took := time.Since(begin)
		t.Logf("%s: %v", what, took.Round(time.Millisecond))
		return took
	}
	add(0, n/10)
	few := timed("5,000 added", func() { l.sync(table, r, now) })
	add(n/10, n)
	many := timed("45,000 added", func() { l.sync(table, r, now) })
	if many > 9*8*few {
		t.Errorf("45,000 took %v, 5,000 took %v", many, few)
	}
	if got := len(l.elements()); got != n || table.Stats().Elements != n {
		t.Fatalf("%d elements in the kernel, %d known, not %d", got, table.Stats().Elements, n)
	}
	timed("nothing to do", func() { l.sync(table, r, now) })
	l.nft("add", "table", "inet", "other")
	timed("looked at", func() {
		if l.sync(table, r, now) {
			t.Error("healed")
		}
	})
	l.nft("delete", "table", "inet", "other")
	timed("loaded again", func() { l.nft("delete", "table", "inet", "ctsight"); l.sync(table, r, now) })
	timed("renewed", func() { l.sync(table, r, now.Add(lease/2+time.Second)) })
	r.Block = r.Block[:n/2]
	timed("25,000 taken out", func() { l.sync(table, r, now.Add(lease/2+time.Second)) })
	if got := len(l.elements()); got != n/2 {
		t.Errorf("%d elements are left, not %d", got, n/2)
	}
	timed("all taken out", func() { r.Block = nil; l.sync(table, r, now) })
	if d := cmp.Diff(before, l.others()); d != "" {
		t.Error(d)
	}
}

// What has expired goes by itself, in the kernel too.
func TestExpires(t *testing.T) {
	l := newPlace(t)
	table, now := l.table(), time.Now()
	r := &Ruleset{Hook: "prerouting", Action: "drop", Block: append(listed(now.Add(2*time.Second), "198.51.100.7", "198.51.100.0/24", "2001:db8::/64"), listed(now.Add(time.Hour), "203.0.113.1")...)}
	l.sync(table, r, now)
	if got := l.elements(); len(got) != 4 {
		t.Fatal(got)
	}
	until(t, func() bool { return len(l.elements()) == 1 })
	now = time.Now()
	if l.sync(table, r, now) {
		t.Error("an element that has expired was missed")
	}
	// And it may come again.
	r.Block = listed(now.Add(time.Hour), "198.51.100.7", "198.51.100.0/24", "203.0.113.1")
	until(t, func() bool { l.sync(table, r, time.Now()); return len(l.elements()) == 3 })
	// Nobody is blocked for longer than the lease by one who was killed.
	for p, end := range table.have {
		if end.After(time.Now().Add(lease)) {
			t.Errorf("%s until %v", p, end)
		}
	}
}

// until waits for a condition, generously.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within a minute")
		}
	}
}

// A wider prefix and what lies in it, in every order.
func TestOverlaps(t *testing.T) {
	l := newPlace(t)
	table, now := l.table(), time.Now()
	r := &Ruleset{Hook: "prerouting", Action: "drop"}
	far, near := now.Add(time.Hour), now.Add(time.Minute)
	for i, c := range []struct {
		block []Listed
		want  string
	}{
		{listed(far, "2001:db8:0:1::/64"), "2001:db8:0:1::/64"},
		{append(listed(far, "2001:db8:0:1::/64"), listed(near, "2001:db8::/48")...), "2001:db8::/48"},
		{listed(far, "2001:db8:0:1::/64", "2001:db8:0:1::7"), "2001:db8:0:1::/64 2001:db8:0:1::7"},
		{listed(far, "2001:db8::/48", "2001:db8:0:1::/64", "2001:db8:0:1::7"), "2001:db8::/48 2001:db8:0:1::7"},
	} {
		r.Block = c.block
		if l.sync(table, r, now) {
			t.Errorf("%d: healed", i)
		}
		got := l.elements()
		for _, w := range strings.Fields(c.want) {
			if !got[w] {
				t.Errorf("%d: no %s", i, w)
			}
			delete(got, w)
		}
		if len(got) > 0 {
			t.Errorf("%d: %s", i, fmt.Sprint(got))
		}
	}
}

func matches(s, expression string) bool { return regexp.MustCompile(expression).MatchString(s) }

// A dry run loads nothing and prints when the list has changed, and only then.
func TestDryRun(t *testing.T) {
	l := newPlace(t)
	var out bytes.Buffer
	now := time.Now()
	r := some(now)
	mode := Dry
	b := &Blocker{Print: &out, Log: slog.New(slog.DiscardHandler), Want: func(time.Time) (int, *Ruleset) { c := *r; return mode, &c }}
	step := func(after time.Duration) string {
		t.Helper()
		out.Reset()
		if err := b.step(now.Add(after)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	first := step(0)
	l.load(first, "-c")
	if !strings.HasPrefix(first, "# ctsight dry run, ") || step(time.Second) != "" {
		t.Error("printed twice, or not at all")
	}
	r.Block = r.Block[1:]
	if second := step(2 * time.Second); second == first || second == "" {
		t.Error(second)
	}
	if mode = Off; step(3*time.Second) != "" || b.table != nil {
		t.Error("off")
	}
	if mode = Dry; step(4*time.Second) == "" {
		t.Error("switched on again it says nothing")
	}
}
