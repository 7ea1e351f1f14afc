package probe

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
)

// mostInstructions is the budget of one program: what the verifier may have to
// process before it is satisfied (R11).
const mostInstructions = 20_000

// strictest is a filter that asks everything, so that no test is pruned.
var strictest = Filter{On: true, Kinds: 1 << event.Drop, Reasons: 1 << event.TableFull, Causes: 1 << event.EarlyDrop, NetNS: 1, Zone: 7, Proto: 6,
	Src: netip.MustParsePrefix("2001:db8::/33"), Dst: netip.MustParsePrefix("2001:db8::1/128"), SportMin: 1, SportMax: 2, DportMin: 3, DportMax: 4}

// TestVerifierBudget loads every program that this kernel can load, without a
// filter, with one, and with what sums up, and says how much work the verifier had. In the lab's
// VMs a program that does not load is an error; on other kernels fentry may be
// missing, and the rest is checked.
func TestVerifierBudget(t *testing.T) {
	lab.NeedRoot(t)
	if lab.InVM() {
		for _, m := range hookModules { // their types and functions
			_ = exec.Command("modprobe", m).Run() // some are not there
		}
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"all": {}, "filter": {Filter: strictest}, "sums": {Sums: func(*event.Sum) {}}} {
		t.Run(name, func(t *testing.T) {
			o.Kernel = new(Kernel)
			obj, err := newObjects(o)
			if err != nil {
				t.Fatal(err)
			}
			defer obj.close()
			budget(t, obj)
		})
	}
}

func budget(t *testing.T, obj *objects) {
	var table strings.Builder
	loaded, skipped := 0, []string{}
	for _, name := range slices.Sorted(maps.Keys(obj.spec.Programs)) {
		n, err := verify(obj, name)
		if err != nil && unsupported(obj.spec.Programs[name]) {
			skipped = append(skipped, name)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		loaded++
		fmt.Fprintf(&table, "%-16s %6d\n", name, n)
		if n == 0 || n >= mostInstructions {
			t.Errorf("%s: the verifier processed %d instructions, the budget is %d", name, n, mostInstructions)
		}
	}
	t.Logf("instructions processed, %d programs:\n%s", loaded, &table)
	if len(skipped) > 0 {
		t.Logf("%d programs not loaded, this kernel has no fentry: %s", len(skipped), strings.Join(skipped, " "))
	}
	if loaded == 0 {
		t.Error("no program loads")
	}
}

// unsupported says whether a program may fail to load here for a known reason:
// it is for fentry, and this is not one of the lab's kernels, which have it.
func unsupported(s *ebpf.ProgramSpec) bool {
	return !lab.InVM() && s.Type == ebpf.Tracing && s.AttachType != ebpf.AttachTraceRawTp
}

var processed = regexp.MustCompile(`processed (\d+) insns`)

// verify loads a program and returns what the verifier says of its work. The
// kernel tells it in its log on all versions, in the program's information
// since 5.16.
// verify returns what the verifier processed for a program, the larger number
// of its two copies.
func verify(obj *objects, name string) (most int, err error) {
	for _, second := range []bool{false, true} {
		n, err := verifyOne(obj, name, second)
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return most, nil
}

func verifyOne(obj *objects, name string, second bool) (int, error) {
	spec := obj.spec.Copy()
	spec.Programs = map[string]*ebpf.ProgramSpec{name: spec.Programs[name]}
	setSecond(spec.Programs[name], second)
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: obj.maps,
		Cache:           obj.types,
		Programs:        ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		return 0, short(err)
	}
	defer coll.Close()
	p := coll.Programs[name]
	m := processed.FindStringSubmatch(p.VerifierLog)
	if m == nil {
		return 0, fmt.Errorf("no statistics in the verifier's log %q", p.VerifierLog)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, err
	}
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	if told, ok := info.VerifiedInstructions(); ok && told != 0 && int(told) != n {
		return 0, fmt.Errorf("the log says %d instructions, the program %d", n, told)
	}
	return n, nil
}

// TestNamesFit: 15 characters are what the kernel keeps.
func TestNamesFit(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		spec, err := loadSpec(legacy)
		if err != nil {
			t.Fatal(err)
		}
		names := slices.AppendSeq(slices.Collect(maps.Keys(spec.Programs)), maps.Keys(spec.Maps))
		for _, n := range names {
			if len(n) >= unix.BPF_OBJ_NAME_LEN {
				t.Errorf("%s is cut after %d characters", n, unix.BPF_OBJ_NAME_LEN-1)
			}
		}
	}
}

// TestHookTable: every program of the table is in the object, and every program
// of the object is of use to someone.
func TestHookTable(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		spec, err := loadSpec(legacy)
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]bool{"peek": true, "walk": true}
		for _, h := range hooks {
			for _, n := range []string{h.kentry, h.kexit, h.entry, h.exit, h.innerEntry} {
				used[n] = true
				if _, ok := spec.Programs[n]; n != "" && !ok && (!legacy || n[1] == '_') {
					t.Errorf("legacy %t: hook %s wants %s, which is not in the object", legacy, h.symbol, n)
				}
			}
			if h.lost == "" {
				t.Errorf("hook %s does not say what is lost without it", h.symbol)
			}
		}
		for n := range spec.Programs {
			if !used[n] {
				t.Errorf("legacy %t: nobody attaches %s", legacy, n)
			}
		}
	}
}
