package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

const hostNS, podNS event.NetNS = 4026531840, 4026532001

// fakeProc is a /proc with what an index reads of it.
type fakeProc struct {
	t    testing.TB
	root string
}

func newProc(t testing.TB) fakeProc {
	t.Helper()
	p := fakeProc{t, t.TempDir()}
	p.add(1, hostNS, "0::/init.scope\n")
	return p
}

func (p fakeProc) add(pid int, ns event.NetNS, cgroup string) {
	p.t.Helper()
	dir := filepath.Join(p.root, strconv.Itoa(pid))
	must(p.t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
	must(p.t, os.Symlink(fmt.Sprintf("net:[%d]", ns), filepath.Join(dir, "ns/net")))
	must(p.t, os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o644))
}

func (p fakeProc) remove(pid int) {
	p.t.Helper()
	must(p.t, os.RemoveAll(filepath.Join(p.root, strconv.Itoa(pid))))
}

// deaf makes a cgroup that cannot be read: whoever does gets nothing.
func (p fakeProc) deaf(pid int) {
	p.t.Helper()
	must(p.t, os.Remove(filepath.Join(p.root, strconv.Itoa(pid), "cgroup")))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func podCgroup(uid, id string) string { return "0::/kubepods/burstable/pod" + uid + "/" + id + "\n" }

func wantName(t *testing.T, x *Index, ns event.NetNS, at time.Time, want string) {
	t.Helper()
	if got := x.Name(ns, at); got != want {
		t.Errorf("%v called %q, want %q", ns, got, want)
	}
}

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// sec is the moment so many seconds after the start.
func sec(n float64) time.Time { return start.Add(time.Duration(n * float64(time.Second))) }

const podName = "pod:" + uid + "/34dc0b5e626f"

// A name that a person gave wins; one that a runtime made up gives way to a pod or
// container, and nothing gives way to the unit that runs the runtime's plugin.
func TestIndexBetter(t *testing.T) {
	const cni, unit = "cni-49ebd689-4938-e3c4-2446-baf3495bf7a5", "0::/system.slice/containerd.service\n"
	for _, tc := range []struct{ name, cgroup, want string }{
		{"web", podCgroup(uid, idA), "web"},
		{cni, podCgroup(uid, idA), podName},
		{"", podCgroup(uid, idA), podName},
		{cni, unit, cni},
		{"", unit, "containerd.service"},
		{cni, "0::/\n", cni},
		{"", "0::/\n", ""},
	} {
		p := newProc(t)
		p.add(20, podNS, tc.cgroup)
		if got := NewIndex(p.root, nil).Better(tc.name, podNS, start); got != tc.want {
			t.Errorf("%q with %q: %q, want %q", tc.name, tc.cgroup, got, tc.want)
		}
	}
}

// The host's namespace has no name, whoever shares it.
func TestIndexHost(t *testing.T) {
	p := newProc(t)
	p.add(20, hostNS, podCgroup(uid, idA))
	p.add(30, podNS, podCgroup(uid, idA))
	x := NewIndex(p.root, nil)
	wantName(t, x, hostNS, start, "")
	wantName(t, x, podNS, start, podName)
	wantName(t, x, 4026532999, start, "")
}

// Neither is it the unit's that process 1 may be in.
func TestIndexHostUnit(t *testing.T) {
	p := newProc(t)
	p.remove(1)
	p.add(1, hostNS, "0::/system.slice/agent.service\n")
	wantName(t, NewIndex(p.root, nil), hostNS, start, "")
}

// Of a namespace with many processes the oldest are asked.
func TestMembersBounded(t *testing.T) {
	p := newProc(t)
	for i := range 3 * maxMembers {
		p.add(100+i, podNS, podCgroup(uid, idA))
	}
	m := proc(p.root).members()[podNS]
	if len(m) != maxMembers || m[0] != 100 || m[maxMembers-1] != 100+maxMembers-1 {
		t.Errorf("%v", m)
	}
}

// In a container without the processes of the host, process 1 is the container.
func TestIndexInContainer(t *testing.T) {
	p := newProc(t)
	p.remove(1)
	p.add(1, podNS, podCgroup(uid, idA))
	wantName(t, NewIndex(p.root, nil), podNS, start, podName)
}

// Visitors do not give their name: the plugin of the runtime, a login that entered.
func TestIndexVisitors(t *testing.T) {
	for name, visitor := range map[string]string{"plugin": "0::/system.slice/containerd.service\n", "login": "0::/user.slice/user-0.slice/session-3.scope\n"} {
		t.Run(name, func(t *testing.T) {
			p := newProc(t)
			p.add(20, podNS, visitor) // came before the pod's first process
			x := NewIndex(p.root, nil)
			x.Name(podNS, start)
			p.add(30, podNS, podCgroup(uid, idA))
			wantName(t, x, podNS, sec(1), podName)
			p.add(10, podNS, visitor)
			wantName(t, x, podNS, sec(10), podName)
		})
	}
}

// The namespace of a node of kind has pods with host networking in it: the outer
// container is whose it is. A pod of it has its own.
func TestIndexNested(t *testing.T) {
	p := newProc(t)
	inner := "0::/docker/" + idB + "/kubepods/pod" + uid + "/" + idA + "\n"
	p.add(20, podNS, inner)
	p.add(30, podNS, "0::/docker/"+idB+"/init.scope\n")
	p.add(40, podNS+1, inner)
	x := NewIndex(p.root, nil)
	wantName(t, x, podNS, start, "docker:0f99ad5f4516")
	wantName(t, x, podNS+1, start, "docker:0f99ad5f4516/"+podName)
}

// What is known stays known without another look at any cgroup, while the process
// that told it is there.
func TestIndexReadsOnce(t *testing.T) {
	p := newProc(t)
	p.add(20, podNS, podCgroup(uid, idA))
	p.add(30, podNS+1, podCgroup(uid, idB))
	x := NewIndex(p.root, nil)
	wantName(t, x, podNS, start, podName)
	p.deaf(20)
	p.deaf(30)
	wantName(t, x, podNS+1, start, "pod:"+uid+"/0f99ad5f4516") // the same walk has read it
	p.add(40, podNS+2, podCgroup(uid, idB))
	wantName(t, x, podNS+2, sec(2), "pod:"+uid+"/0f99ad5f4516") // another walk, for a new one
	for s := range 100 {
		wantName(t, x, podNS, sec(3+float64(s)), podName)
	}
}

// A namespace that appears is found within a second, also one that was asked for
// before it had a process.
func TestIndexAppears(t *testing.T) {
	p := newProc(t)
	x := NewIndex(p.root, nil)
	wantName(t, x, podNS, start, "")
	p.add(20, podNS, podCgroup(uid, idA))
	wantName(t, x, podNS, sec(0.5), "") // one walk a second
	wantName(t, x, podNS, sec(1), podName)
	p.add(30, podNS+1, podCgroup(uid, idB))
	wantName(t, x, podNS+1, sec(1.9), "")
	wantName(t, x, podNS+1, sec(2), "pod:"+uid+"/0f99ad5f4516")
}

// Nobody's namespaces cost ever fewer walks.
func TestIndexBacksOff(t *testing.T) {
	p := newProc(t)
	x := NewIndex(p.root, nil)
	walks, last := 0, time.Time{}
	for s := range 120 {
		x.Name(podNS, sec(float64(s)))
		if x.walked != last {
			walks, last = walks+1, x.walked
		}
	}
	if walks < 120/8 || walks > 20 {
		t.Errorf("%d walks in 2 minutes", walks)
	}
}

// A pod whose first container is replaced keeps its name; a number that goes to
// another pod does not; what has ended keeps its name for its last events.
func TestIndexLife(t *testing.T) {
	p := newProc(t)
	p.add(20, podNS, podCgroup(uid, idA))
	x := NewIndex(p.root, nil)
	wantName(t, x, podNS, start, podName)

	p.add(21, podNS, podCgroup(uid, idB))
	p.remove(20)
	wantName(t, x, podNS, sec(2), podName)

	p.remove(21)
	wantName(t, x, podNS, sec(4), podName)
	wantName(t, x, podNS, sec(11), podName)
	wantName(t, x, podNS, sec(14), "")

	p.add(22, podNS, "0::/docker/"+idB+"\n")
	wantName(t, x, podNS, sec(30), "docker:0f99ad5f4516")
	p.remove(22)
	p.add(23, podNS, podCgroup(uid, idB))
	wantName(t, x, podNS, sec(32), "pod:"+uid+"/0f99ad5f4516")

	p.remove(23)
	for s := 33; s < 120; s++ {
		x.Name(podNS+1, sec(float64(s)))
	}
	if x.spaces[podNS] != nil {
		t.Error("not forgotten")
	}
}

// Links and files that are none of ours are passed by.
func TestIndexStrange(t *testing.T) {
	p := newProc(t)
	for pid, link := range map[int]string{20: "net:[", 21: "net:[x]", 22: "mnt:[4026532001]", 23: "net:[99999999999]", 24: "/etc/passwd",
		25: "net:[4026532001]trailing", 26: "net:[0000000000000000000000004026532001]"} {
		dir := filepath.Join(p.root, strconv.Itoa(pid), "ns")
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.Symlink(link, filepath.Join(dir, "net")))
		must(t, os.WriteFile(filepath.Join(dir, "../cgroup"), []byte(podCgroup(uid, idA)), 0o644))
	}
	must(t, os.MkdirAll(filepath.Join(p.root, "-5/ns"), 0o755))
	must(t, os.MkdirAll(filepath.Join(p.root, "30"), 0o755))
	x := NewIndex(p.root, nil)
	wantName(t, x, podNS, start, "")
	if len(x.spaces) != 2 { // the host's, and what was asked for
		t.Errorf("%d namespaces", len(x.spaces))
	}
	wantName(t, NewIndex("/nowhere", nil), podNS, start, "")
}

// Numbers without end are bounded.
func TestIndexBounded(t *testing.T) {
	x := NewIndex(newProc(t).root, nil)
	for i := range 2 * maxSpaces {
		x.Name(event.NetNS(i+1), start)
	}
	if len(x.spaces) != maxSpaces {
		t.Errorf("%d namespaces, at most %d", len(x.spaces), maxSpaces)
	}
}

// Our own processes, on a real /proc: whatever this machine is, nothing fails.
func TestIndexRealProc(t *testing.T) {
	own := proc("/proc").netns(os.Getpid())
	if own == 0 {
		t.Fatal("the own namespace is not seen")
	}
	if all := proc("/proc").members(); len(all[own]) == 0 {
		t.Errorf("no process in the own namespace of %d", len(all))
	}
	NewIndex("/proc", nil).Name(own, start)
}

// benchProc has 5,000 processes in 250 pods of 10, and as many on the host.
func benchProc(b *testing.B) fakeProc {
	p := newProc(b)
	for i := range 5000 {
		pid := 100 + i
		if i%2 == 0 {
			p.add(pid, hostNS, "0::/system.slice/x.service\n")
			continue
		}
		ns := podNS + event.NetNS(i/2%250)
		p.add(pid, ns, podCgroup(fmt.Sprintf("%08d-16b7-4a49-bb9e-8ec1f1f4e27f", ns%1e8), idA))
	}
	return p
}

// BenchmarkIndexFirst is the first question on 5,000 processes: the walk, and one
// cgroup of each of 250 pods.
func BenchmarkIndexFirst(b *testing.B) {
	p := benchProc(b)
	b.ReportAllocs()
	for b.Loop() {
		if NewIndex(p.root, nil).Name(podNS, start) == "" {
			b.Fatal("no name")
		}
	}
}

// BenchmarkIndexAgain is a later walk, when one namespace is new.
func BenchmarkIndexAgain(b *testing.B) {
	p := benchProc(b)
	x := NewIndex(p.root, nil)
	x.Name(podNS, start)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		x.walk(sec(float64(i)))
	}
}

// Events cost no memory.
func TestIndexAllocates(t *testing.T) {
	p := newProc(t)
	p.add(20, podNS, podCgroup(uid, idA))
	x := NewIndex(p.root, nil)
	if n := testing.AllocsPerRun(100, func() { x.Better("cni-49ebd689-4938-e3c4-2446-baf3495bf7a5", podNS, start) }); n > 0 {
		t.Errorf("%v allocations to ask again", n)
	}
}

// BenchmarkIndexKnown is what each event costs, nearly always.
func BenchmarkIndexKnown(b *testing.B) {
	x := NewIndex(benchProc(b).root, nil)
	b.ReportAllocs()
	for b.Loop() {
		x.Name(podNS, start)
	}
}
