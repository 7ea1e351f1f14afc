package probe

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/ctsight/ctsight/internal/abi"
)

// maxRingBytes is the largest value of an array map on every kernel
// supported: KMALLOC_MAX_SIZE with 4 KiB pages (array_map_alloc_check, 5.10).
const maxRingBytes = 4 << 20

// recentPerCPU is RECENT of bpf/maps.h.
const recentPerCPU = 1024

// objects are the maps and the specifications of programs, before anything is
// attached. Programs are loaded one by one: a kernel that refuses one must not
// cost the others.
type objects struct {
	spec   *ebpf.CollectionSpec
	maps   map[string]*ebpf.Map
	vars   map[string]*ebpf.Variable
	types  *btf.Cache // the kernel's types and those of loaded modules
	legacy bool
	ncpu   int
	places int // netns places per CPU in the map counts
}

// newObjects prepares the specification and creates the maps.
func newObjects(o Options) (*objects, error) {
	ncpu, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count processors: %w", err)
	}
	obj := &objects{ncpu: ncpu, legacy: !haveFetchingAtomics()}
	_, obj.types, _ = o.Kernel.look() // what is wrong with the symbols Rescan says
	if obj.spec, err = loadSpec(obj.legacy); err != nil {
		return nil, err
	}
	if err := obj.configure(o); err != nil {
		return nil, err
	}
	spec := obj.spec.Copy()
	spec.Programs = nil
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", explain(err))
	}
	obj.maps, obj.vars = coll.Maps, coll.Variables
	return obj, nil
}

func loadSpec(legacy bool) (*ebpf.CollectionSpec, error) {
	load := abi.LoadConntrack
	if legacy {
		load = abi.LoadLegacy
	}
	spec, err := load()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	return spec, nil
}

// configure sets sizes and constants in the specification.
func (obj *objects) configure(o Options) error {
	slots := ringSlots(o.RingBytes)
	obj.places = 256
	size := func(name string, entries, value uint32) {
		m := obj.spec.Maps[name]
		m.MaxEntries = entries
		if value != 0 {
			m.ValueSize = value
		}
	}
	n := uint32(obj.ncpu)
	size("rings", n, slots*uint32(recSize))
	obj.spec.Maps["rings"].Value = nil // its BTF is that of one record
	size("cpus", n, 0)
	size("counts", n*uint32(obj.places+1), 0)
	size("recents", n*2*recentPerCPU, 0)
	perCPU := uint32(0)
	if o.Sums != nil {
		perCPU = sumsPerCPU
		size("sums", n*sumsPerCPU, 0)
		size("scratches", n*scratches, 0)
		size("untold", n, 0)
	}
	for name, v := range map[string]any{
		"cfg_sums":        perCPU,
		"cfg_ring_slots":  slots,
		"cfg_ncpu":        n,
		"cfg_count_slots": uint32(obj.places),
		"cfg_filter":      o.Filter.wire(),
		"cfg_invalid":     o.Invalid,
		"cfg_preempt_var": !obj.legacy && linkPreemptCount(obj.spec, obj.types),
	} {
		if err := obj.spec.Variables[name].Set(v); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// ringSlots is the number of records of one CPU's ring, a power of two.
func ringSlots(bytes int) uint32 {
	bytes = min(max(bytes, 64<<10), maxRingBytes)
	return 1 << (bits.Len(uint(bytes/recSize)) - 1)
}

// noteCPUs is NOTE_CPUS of bpf/maps.h, secondMark SECOND of bpf/emit.h.
const (
	noteCPUs   = 1024
	secondMark = 0x6374736967687402
)

// twice says whether a hook's programs are to be attached twice.
func (obj *objects) twice(h *hook) bool { return h.twice && obj.ncpu <= noteCPUs }

// setSecond tells a program which of two equal ones it is.
func setSecond(ps *ebpf.ProgramSpec, second bool) {
	n := int64(0)
	if second {
		n = 1
	}
	replace(ps, secondMark, 0, n)
}

// replace puts a value in the place of a number that the C source has loaded
// for it; src says what kind of value.
func replace(ps *ebpf.ProgramSpec, mark int64, src asm.Register, value int64) {
	for i := range ps.Instructions {
		ins := &ps.Instructions[i]
		if ins.OpCode.IsDWordLoad() && ins.Src == 0 && ins.Constant == mark {
			ins.Src, ins.Constant = src, value
		}
	}
}

// program loads one program on the maps that exist; second says that it is
// there already.
func (obj *objects) program(name string, second bool) (*ebpf.Program, error) {
	ps, ok := obj.spec.Programs[name]
	if !ok {
		return nil, fmt.Errorf("program %s: %w", name, ebpf.ErrNotSupported)
	}
	// Nothing but this program and its maps: whatever else is in the
	// specification would be copied, and each map opened once more.
	spec := &ebpf.CollectionSpec{
		Maps:      map[string]*ebpf.MapSpec{},
		Programs:  map[string]*ebpf.ProgramSpec{name: ps.Copy()},
		Types:     obj.spec.Types,
		ByteOrder: obj.spec.ByteOrder,
	}
	setSecond(spec.Programs[name], second)
	used := map[string]*ebpf.Map{}
	for m := range mapsOf(ps) {
		spec.Maps[m], used[m] = obj.spec.Maps[m].Copy(), obj.maps[m]
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: used,
		Cache:           obj.types,
	})
	if err != nil {
		return nil, err
	}
	p := coll.DetachProgram(name)
	coll.Close()
	return p, nil
}

// mapsOf yields the names of the maps that a program uses, each once or more.
func mapsOf(p *ebpf.ProgramSpec) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range p.Instructions {
			if p.Instructions[i].IsLoadFromMap() && !yield(p.Instructions[i].Reference()) {
				return
			}
		}
	}
}

func (obj *objects) close() error {
	var errs []error
	for _, m := range obj.maps {
		errs = append(errs, m.Close())
	}
	obj.maps = nil
	return errors.Join(errs...)
}

// bytes is the kernel memory of the maps.
func (obj *objects) bytes() (rings, others uint64) {
	for name, m := range obj.maps {
		b := uint64(m.MaxEntries()) * uint64((m.ValueSize()+7)&^7+(m.KeySize()+7)&^7)
		if name == "rings" {
			rings = b
		} else {
			others += b
		}
	}
	return rings, others
}

// haveFetchingAtomics asks the verifier for a fetching add (5.12).
func haveFetchingAtomics() bool {
	add := asm.FetchAdd.Mem(asm.RFP, asm.R1, asm.DWord, -8)
	add.Constant = 1 // BPF_FETCH: cilium/ebpf v0.22 leaves it out when it marshals
	return loads(ebpf.SocketFilter, asm.Instructions{
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		add,
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	})
}

// loads says whether the verifier takes a program.
func loads(t ebpf.ProgramType, ins asm.Instructions) bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: t, License: "Dual BSD/GPL", Instructions: ins})
	if err != nil {
		return false
	}
	_ = prog.Close()
	return true
}
