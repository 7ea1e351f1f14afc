package relief

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// A change is in the journal and armed before the kernel is told, and comes back when
// its time is over, not before.
func TestSetAndExpire(t *testing.T) {
	w := newWorld()
	p := w.mustSet(t, Ask{limitName, 524288}, Ask{udp, 10})
	if w.values[limitName] != 524288 || w.values[udp] != 10 || w.open(t) != 2 {
		t.Fatal(w.differs(524288, 10), w.open(t))
	}
	if want := p.Steps[0].ID + " 2h0m2s"; len(w.armed) != 1 || w.armed[0] != want {
		t.Errorf("armed %q, want %q", w.armed, want)
	}
	w.pass(2*time.Hour - time.Second)
	if closed, err := w.book().Expire(); err != nil || len(closed) != 0 || w.values[limitName] != 524288 {
		t.Errorf("too early: %v %v", closed, err)
	}
	w.pass(time.Second)
	closed, err := w.book().Expire()
	if err != nil || len(closed) != 2 || w.differs(262144, 30) != "" {
		t.Errorf("%d closed, %v, %s", len(closed), err, w.differs(262144, 30))
	}
	if c := w.all(t)[0]; c.State != Reverted || c.Reason != "INC-42" || c.Who.Login != "alice" || c.Closed.IsZero() {
		t.Errorf("%+v", c)
	}
	if closed, err := w.book().Expire(); err != nil || len(closed) != 0 {
		t.Errorf("again: %v %v", closed, err)
	}
}

// The kernel is not told before the journal and the timer know.
func TestOrder(t *testing.T) {
	w := newWorld()
	b := w.book()
	b.Arm = func(string, time.Duration) error {
		if len(w.written) > 0 || w.open(t) != 1 {
			t.Errorf("written %v, %d in the journal", w.written, w.open(t))
		}
		return errors.New("no systemd here")
	}
	p, err := b.Set(request(Ask{limitName, 524288}))
	if err != nil || p.Warning != "no systemd here" {
		t.Errorf("%v, warning %q", err, p.Warning)
	}
}

// A second relief keeps what was found first, and has the new end.
func TestTwice(t *testing.T) {
	w := newWorld()
	first := w.mustSet(t, Ask{limitName, 524288})
	w.pass(time.Hour)
	second := w.mustSet(t, Ask{limitName, 1048576})
	if s := second.Steps[0]; s.Found != 262144 || s.Present != 524288 || s.Again == nil || s.ID != first.Steps[0].ID {
		t.Errorf("%+v", s)
	}
	w.pass(90 * time.Minute) // the first would be over
	if closed, err := w.book().Expire(); err != nil || len(closed) != 0 || w.values[limitName] != 1048576 {
		t.Errorf("%v %v %d", closed, err, w.values[limitName])
	}
	w.pass(time.Hour)
	if _, err := w.book().Expire(); err != nil || w.values[limitName] != 262144 || w.open(t) != 0 {
		t.Errorf("%v %d", err, w.values[limitName])
	}
	if c := w.all(t); len(c) != 1 || !strings.Contains(c[0].Notes[0].Text, "made anew: it was 524288") {
		t.Errorf("%+v", c)
	}
}

// What others write while a change holds is noted once, and theirs stays: also when a
// second change came after it, which then ends with theirs.
func TestForeign(t *testing.T) {
	w := newWorld()
	w.mustSet(t, Ask{limitName, 524288}, Ask{udp, 10})
	w.values[limitName] = 393216 // kube-proxy starts
	for range 3 {
		if _, err := w.book().Expire(); err != nil {
			t.Fatal(err)
		}
	}
	if c := w.all(t)[0]; len(c.Notes)+len(w.all(t)[1].Notes) != 1 {
		t.Errorf("notes %+v", c.Notes)
	}
	w.pass(3 * time.Hour)
	if _, err := w.book().Expire(); err != nil || w.differs(393216, 30) != "" {
		t.Errorf("%v %s", err, w.differs(393216, 30))
	}
	for _, c := range w.all(t) {
		if c.Sysctl == limitName && (c.State != LeftAlone || !strings.Contains(c.last(), "somebody else has written 393216")) {
			t.Errorf("%+v", c)
		}
	}

	w = newWorld()
	w.mustSet(t, Ask{limitName, 524288})
	w.values[limitName] = 393216
	w.mustSet(t, Ask{limitName, 600000})
	w.pass(3 * time.Hour)
	if _, err := w.book().Expire(); err != nil || w.values[limitName] != 393216 || w.open(t) != 0 {
		t.Errorf("%v %d", err, w.values[limitName])
	}
}

// A limit with which no new connection would get in waits for room, and says so; by
// hand it is written all the same.
func TestNoRoom(t *testing.T) {
	for _, byHand := range []bool{false, true} {
		w := newWorld()
		id := w.mustSet(t, Ask{limitName, 524288}).Steps[0].ID
		w.entries = 300000
		w.pass(3 * time.Hour)
		for range 2 {
			if _, err := w.book().Expire(); err == nil || !strings.Contains(err.Error(), "300000 entries") || w.values[limitName] != 524288 {
				t.Fatalf("%v %d", err, w.values[limitName])
			}
		}
		if c := w.all(t)[0]; len(c.Notes) != 1 {
			t.Errorf("%+v", c.Notes)
		}
		if byHand {
			closed, err := w.book().Revert([]string{id}, 0)
			if err != nil || len(closed) != 1 || !strings.Contains(closed[0].last(), "114 % of that: new connections are lost") {
				t.Errorf("%v %v", err, closed)
			}
		} else {
			w.entries = 200000
			if _, err := w.book().Expire(); err != nil {
				t.Error(err)
			}
		}
		if w.values[limitName] != 262144 || w.open(t) != 0 {
			t.Errorf("by hand %v: %d", byHand, w.values[limitName])
		}
	}
}

// What is open of a sysctl is taken back by its name, of one namespace where that is said;
// what is one for all namespaces is of any.
func TestRevertByName(t *testing.T) {
	w := newWorld()
	w.mustSet(t, Ask{udp, 10})
	w.mustSet(t, Ask{limitName, 524288})
	for _, c := range []struct {
		name   string
		in     event.NetNS
		closed int
	}{{"icmp_timeout", 0, 0}, {"udp_timeout", 7, 0}, {"net.netfilter.nf_conntrack_udp_timeout", place.NetNS, 1}, {udp, 0, 0}, {"max", 7, 1}} {
		closed, err := w.book().Revert([]string{c.name}, c.in)
		if len(closed) != c.closed || (err == nil) != (c.closed == 1) {
			t.Errorf("%s in %d: %d closed, %v", c.name, c.in, len(closed), err)
		}
		if err != nil && !errors.Is(err, ErrUsage) {
			t.Error(err)
		}
	}
	if w.values[udp] != 30 || w.values[limitName] != 262144 || w.open(t) != 0 {
		t.Errorf("%v", w.values)
	}
}

// A disk without room for the journal: the kernel is not told anything.
func TestFullDisk(t *testing.T) {
	w := newWorld()
	w.mustSet(t, Ask{limitName, 524288})
	before := len(w.written)
	w.full = true
	for _, asks := range [][]Ask{{{udp, 10}}, {{limitName, 786432}}, {{limitName, 786432}, {udp, 10}}} {
		if _, err := w.book().Set(request(asks...)); err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("%v: %v", asks, err)
		}
		if len(w.written) != before || len(w.armed) != 1 {
			t.Errorf("%v: written %v, armed %v", asks, w.written, w.armed)
		}
	}
	// What is over comes back all the same, and is told when there is room again.
	w.pass(3 * time.Hour)
	if _, err := w.book().Expire(); err == nil || w.values[limitName] != 262144 {
		t.Errorf("%v %d", err, w.values[limitName])
	}
	w.full = false
	if _, err := w.book().Expire(); err != nil || w.open(t) != 0 {
		t.Errorf("%v", err)
	}
}

// When the kernel refuses one of several, none is changed and nothing is open.
func TestKernelRefuses(t *testing.T) {
	for _, w := range []*world{newWorld(), func() *world { w := newWorld(); w.mustSet(t, Ask{limitName, 524288}); return w }()} {
		had, open := w.values[limitName], w.open(t)
		b := w.book()
		b.Kernel = refuses{kernel{w}, udp}
		_, err := b.Set(request(Ask{limitName, 786432}, Ask{udp, 10}))
		if err == nil || !strings.Contains(err.Error(), "invalid argument: nothing was changed") {
			t.Error(err)
		}
		if w.values[limitName] != had || w.values[udp] != 30 || w.open(t) != open {
			t.Errorf("%s, %d open", w.differs(had, 30), w.open(t))
		}
		if c := w.all(t); len(c) > 0 && (c[0].Set != 524288 || c[0].State != Applied) {
			t.Errorf("%+v", c[0])
		}
	}
}

// refuses is a kernel that does not take values of a sysctl.
type refuses struct {
	kernel
	sysctl string
}

func (r refuses) Write(p Place, sysctl string, v uint64) error {
	if sysctl == r.sysctl {
		return errors.New("invalid argument")
	}
	return r.kernel.Write(p, sysctl, v)
}

// A journal that cannot be read whole changes nothing of its own accord, nothing is set
// beside it, and what can be read of it still ends.
func TestHostileJournal(t *testing.T) {
	good := newWorld()
	id := good.mustSet(t, Ask{limitName, 524288}).Steps[0].ID
	file := good.files[id+ending]
	text := string(file)
	for name, bad := range map[string]string{
		"empty": "", "garbage": "\x00\x01{", "no object": "[]", "null": "null", "other version": strings.Replace(text, `"version": 1`, `"version": 2`, 1),
		"unknown field": strings.Replace(text, `"found"`, `"fonud"`, 1), "twice": text + text,
		"other sysctl":  strings.ReplaceAll(text, limitName, "../../kernel/core_pattern"),
		"lower":         strings.Replace(text, `"found": 262144`, `"found": 16`, 1),
		"set below":     strings.Replace(text, `"set": 524288`, `"set": 5`, 1),
		"other file":    strings.Replace(text, id, "01234567", 1),
		"endless":       strings.Replace(text, "2026-11-30T05", "2036-11-30T05", 1),
		"unknown state": strings.Replace(text, `"applied"`, `"apllied"`, 1),
		"negative":      strings.Replace(text, `"found": 262144`, `"found": -1`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.none = false
			w.files[id+ending] = []byte(bad)
			w.values[limitName] = 524288
			w.pass(3 * time.Hour)
			check := func(what string, err error) {
				t.Helper()
				if !errors.Is(err, ErrJournal) || !strings.Contains(err.Error(), id+ending) || len(w.written) > 0 || string(w.files[id+ending]) != bad {
					t.Errorf("%s: %v, written %v", what, err, w.written)
				}
			}
			_, err := w.book().Expire()
			check("expire", err)
			_, err = w.book().Revert(nil, 0)
			check("revert", err)
			_, err = w.book().Set(request(Ask{udp, 10}))
			check("set", err)
			_, err = w.book().Plan(request(Ask{udp, 10}))
			check("plan", err)
			_, err = w.book().List()
			check("list", err)
		})
	}
	// Others of the journal are not forgotten for that.
	good.files["89abcdef"+ending] = []byte("garbage")
	good.pass(3 * time.Hour)
	if _, err := good.book().Expire(); !errors.Is(err, ErrJournal) || good.values[limitName] != 262144 {
		t.Errorf("%v %d", err, good.values[limitName])
	}
}

// No change of one bit and no cut of a file is taken for a journal.
func TestDamage(t *testing.T) {
	w := newWorld()
	id := w.mustSet(t, Ask{limitName, 524288}).Steps[0].ID
	file := w.files[id+ending]
	if _, err := decode(id, file); err != nil {
		t.Fatal(err)
	}
	for i := range file {
		if _, err := decode(id, file[:i]); err == nil {
			t.Fatalf("cut at %d of %d", i, len(file))
		}
		for bit := range 8 {
			b := append([]byte(nil), file...)
			b[i] ^= 1 << bit
			if _, err := decode(id, b); err == nil {
				t.Fatalf("bit %d of byte %d (%q)", bit, i, file[i])
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	w := newWorld()
	p, err := w.book().Set(request(Ask{limitName, 524288}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(w.files[p.Steps[0].ID+ending])
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := decode("01234567", data); err == nil && (global(c.Sysctl) && c.Set <= c.Found || c.ID != "01234567") {
			t.Errorf("%+v", c)
		}
	})
}

// The namespace of a change has gone, or the module has: the value went with it.
func TestGone(t *testing.T) {
	for name, end := range map[string]func(*world){"namespace": func(w *world) { w.gone = true }, "module": func(w *world) { clear(w.values) }} {
		w := newWorld()
		w.mustSet(t, Ask{udp, 10})
		end(w)
		w.written = nil
		if _, err := w.book().Expire(); err != nil || w.open(t) != 0 || len(w.written) != 0 {
			t.Errorf("%s: %v, %d open", name, err, w.open(t))
		}
	}
}

// While the kernel refuses, a change that is over stays open and overdue.
func TestCannotWrite(t *testing.T) {
	w := newWorld()
	w.mustSet(t, Ask{udp, 10})
	w.pass(3 * time.Hour)
	w.deny = errors.New("permission denied")
	if _, err := w.book().Expire(); err == nil {
		t.Error("no error")
	}
	l, err := w.book().List()
	if err != nil || len(l) != 1 || !l[0].Overdue || *l[0].Present != 10 || l[0].Who != "alice" {
		t.Errorf("%v %+v", err, l)
	}
	w.deny = nil
	if _, err := w.book().Expire(); err != nil || w.values[udp] != 30 {
		t.Error(err)
	}
}

// Who may not write the journal tells what is, all the same: after a reboot, and when
// somebody has written the found value.
func TestListReadOnly(t *testing.T) {
	w := newWorld()
	w.mustSet(t, Ask{limitName, 524288}, Ask{udp, 10})
	w.full, w.values[udp] = true, 30
	w.pass(3 * time.Hour)
	l, err := w.book().List()
	if err != nil || len(l) != 2 {
		t.Fatalf("%v %+v", err, l)
	}
	for _, r := range l {
		if r.Overdue != (r.Sysctl == limitName) || !r.Open {
			t.Errorf("%+v", r)
		}
	}
	w.reboot(map[string]uint64{limitName: 262144, udp: 30})
	if l, err := w.book().List(); err != nil || l[0].Open || l[1].Open || l[0].State != string(Reverted) {
		t.Errorf("%v %+v", err, l)
	}
	if n := w.open(t); n != 2 {
		t.Errorf("a list has written the journal: %d are open in it", n)
	}
}

// What is refused, with what to do instead; and nothing is changed.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		ask  Ask
		with func(*world, *Request)
		want string
	}{
		"lower":            {Ask{limitName, 1000}, nil, "relief never lowers it: to lower it, sysctl -w net.netfilter.nf_conntrack_max=1000"},
		"no limit":         {Ask{limitName, 1000}, func(w *world, _ *Request) { w.values[limitName] = 0 }, "0 (no limit)"},
		"the same":         {Ask{udp, 30}, nil, "is 30 already"},
		"fewer buckets":    {Ask{bucketN, 1024}, nil, "never lowers"},
		"other namespace":  {Ask{limitName, 524288}, func(w *world, _ *Request) { w.readOnly[limitName] = true }, "set it in the initial one, on the host without --netns"},
		"not there":        {Ask{prefix + "dccp_loose", 0}, nil, "modprobe nf_conntrack"},
		"below entries":    {Ask{limitName, 300000}, func(w *world, _ *Request) { w.entries = 400000 }, "400000 entries"},
		"too much":         {Ask{limitName, 1 << 24}, nil, "--force"},
		"too much at once": {Ask{limitName, 1 << 22}, func(_ *world, r *Request) { r.Memory.Available = 1 << 20 }, "1 MiB are available"},
		"unknown size":     {Ask{limitName, 524288}, func(_ *world, r *Request) { r.Memory.Entry = 0 }, "slab_size"},
		"no reason":        {Ask{udp, 10}, func(_ *world, r *Request) { r.Reason = " " }, "--reason"},
		"no time":          {Ask{udp, 10}, func(_ *world, r *Request) { r.For = 0 }, "--for"},
		"for ever":         {Ask{udp, 10}, func(_ *world, r *Request) { r.For = 365 * 24 * time.Hour }, "--for"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			r := request(c.ask)
			if c.with != nil {
				c.with(w, &r)
			}
			if _, err := w.book().Set(r); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if len(w.written) > 0 || len(w.all(t)) > 0 {
				t.Errorf("written %v", w.written)
			}
		})
	}
}

// What a full table takes: entries of this kernel with their extensions, buckets of 8
// bytes. Reckoned by hand.
func TestMemory(t *testing.T) {
	w := newWorld()
	p, err := w.book().Plan(request(Ask{limitName, 524288}, Ask{bucketN, 131000}))
	if err != nil {
		t.Fatal(err)
	}
	if p.Steps[1].Value != 131072 {
		t.Errorf("%d buckets: the kernel fills pages of 512", p.Steps[1].Value)
	}
	if m := p.RAM; m.Before != 262144*384+65536*8 || m.After != 524288*384+131072*8 || p.TooMuch != "" {
		t.Errorf("%+v %s", m, p.TooMuch)
	}
	if len(w.written) > 0 || !w.none {
		t.Error("a plan has changed something")
	}
	r := request(Ask{limitName, 1 << 24}) // 6 GiB of 16
	if p, err := w.book().Plan(r); err != nil || !strings.Contains(p.TooMuch, "more than 25 %") {
		t.Errorf("%v %+v", err, p)
	}
	r.Share = 0.5
	if p, err := w.book().Plan(r); err != nil || p.TooMuch != "" {
		t.Errorf("%v %+v", err, p)
	}
	r.Share, r.Force = 0.25, true
	if _, err := w.book().Set(r); err != nil || w.values[limitName] != 1<<24 {
		t.Error(err)
	}
	if p, err := w.book().Plan(request(Ask{udp, 10})); err != nil || p.RAM != nil {
		t.Errorf("a timeout takes no memory: %v %+v", err, p)
	}
}

func TestParseAsk(t *testing.T) {
	for in, want := range map[string]Ask{
		"nf_conntrack_max=524288": {limitName, 524288}, "max=524288": {limitName, 524288}, "net.netfilter.nf_conntrack_udp_timeout=10": {udp, 10},
		"net/netfilter/nf_conntrack_udp_timeout=10": {udp, 10}, "udp_timeout=10": {udp, 10}, "net.nf_conntrack_max=5": {limitName, 5}, "tcp_loose=0": {prefix + "tcp_loose", 0},
	} {
		if a, err := ParseAsk(in); err != nil || a != want {
			t.Errorf("%s: %+v %v", in, a, err)
		}
	}
	for _, in := range []string{"", "max", "max=", "max=0", "max=-1", "max=1e9", "max=4294967296", "udp_timeout=0", "udp_timeout=2147484", "tcp_loose=2", "log_invalid=256",
		"count=1", "acct=1", "kernel.core_pattern=1", "../max=1", "udp_timeout=10s"} {
		if a, err := ParseAsk(in); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %+v %v", in, a, err)
		}
	}
}

// Closed changes make room for others; what dead processes left goes too.
func TestTidy(t *testing.T) {
	w := newWorld()
	for range keepClosed + 5 {
		w.mustSet(t, Ask{udp, 10})
		w.pass(3 * time.Hour)
		if _, err := w.book().Expire(); err != nil {
			t.Fatal(err)
		}
	}
	w.files["0123abcd"+temporary] = []byte("half")
	w.mustSet(t, Ask{limitName, 524288})
	if n := len(w.files); n != keepClosed+1 {
		t.Errorf("%d files", n)
	}
	w.pass(keepFor + time.Hour)
	if _, err := w.book().Expire(); err != nil {
		t.Fatal(err)
	}
	w.mustSet(t, Ask{limitName, 524288})
	if n := len(w.files); n != 2 {
		t.Errorf("%d files", n)
	}
}
