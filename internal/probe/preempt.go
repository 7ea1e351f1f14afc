package probe

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

const (
	preemptMark  = 0x6374736967687401 // PREEMPT_VAR of bpf/emit.h
	pseudoBTFVar = asm.R3             // BPF_PSEUDO_BTF_ID: the number is a variable's BTF id
)

// readsVar asks the verifier whether programs may read a variable. It finds
// variables by name: not where kallsyms holds functions only.
func readsVar(id int64) bool {
	variable := asm.LoadImm(asm.R1, id, asm.DWord)
	variable.Src = pseudoBTFVar
	return loads(ebpf.RawTracepoint, asm.Instructions{
		variable,
		asm.FnThisCpuPtr.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	})
}

// linkPreemptCount makes the programs read the preemption count as a variable
// of the kernel, with ten instructions instead of a hundred. It says whether
// it did; without, they read it by its address.
func linkPreemptCount(spec *ebpf.CollectionSpec, types *btf.Cache) bool {
	kernel, err := types.Kernel()
	if err != nil {
		return false
	}
	var v *btf.Var
	if kernel.TypeByName("pcpu_hot", &v) != nil && kernel.TypeByName("__preempt_count", &v) != nil {
		return false
	}
	id, err := kernel.TypeID(v)
	if err != nil || !readsVar(int64(id)) {
		return false
	}
	for _, p := range spec.Programs {
		replace(p, preemptMark, pseudoBTFVar, int64(id))
	}
	return true
}
