package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
)

// gcWatch times the runs of the garbage collector, which works in a kernel
// thread of its own, by two small programs around it. They cost the same
// whatever else is attached.
type gcWatch struct {
	runs  *ebpf.Map // one value: start of the run, longest run so far
	progs []*ebpf.Program
	links []link.Link
}

func watchGC() (*gcWatch, error) {
	w := &gcWatch{}
	var err error
	w.runs, err = ebpf.NewMap(&ebpf.MapSpec{Name: "runs", Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	value := asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R6, asm.R0),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, w.runs.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
	}
	out := asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return()}
	begin := append(append(value[:len(value):len(value)], asm.StoreMem(asm.R0, 0, asm.R6, asm.DWord)), out...)
	end := append(append(value[:len(value):len(value)],
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Sub.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
		asm.JLE.Reg(asm.R6, asm.R1, "out"),
		asm.StoreMem(asm.R0, 8, asm.R6, asm.DWord)), out...)
	err = errors.Join(w.attach(ebpf.AttachTraceFEntry, begin), w.attach(ebpf.AttachTraceFExit, end))
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *gcWatch) attach(t ebpf.AttachType, code asm.Instructions) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "gc_watch", Type: ebpf.Tracing, AttachType: t, AttachTo: "gc_worker", License: "Dual BSD/GPL", Instructions: code,
	})
	if err != nil {
		return err
	}
	w.progs = append(w.progs, p)
	l, err := link.AttachTracing(link.TracingOptions{Program: p})
	if err == nil {
		w.links = append(w.links, l)
	}
	return err
}

func (w *gcWatch) longest() (uint64, error) {
	var v [2]uint64
	err := w.runs.Lookup(uint32(0), &v)
	return v[1], err
}

func (w *gcWatch) close() error {
	var errs []error
	for _, l := range w.links {
		errs = append(errs, l.Close())
	}
	for _, p := range w.progs {
		errs = append(errs, p.Close())
	}
	return errors.Join(append(errs, w.runs.Close())...)
}

// expiry measures the other way to go: entries that time out are removed by
// the garbage collector. One run of it takes a whole batch.
func (b *bench) expiry(tap string, r *road, in installed) (err error) {
	if err := r.timeout(1); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.timeout(30)) }()
	w, err := watchGC()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := r.send(0, b.cost[:]); err != nil {
		return err
	}
	for range 400 {
		if nap(500); r.count() == 0 {
			break
		}
	}
	if n := r.count(); n != 0 {
		return fmt.Errorf("%d entries do not time out", n)
	}
	used, err := w.longest()
	if err != nil {
		return err
	}
	b.res.Expiry = append(b.res.Expiry, measure.Expiry{Tap: tap, Insns: float64(used) / measure.Packets})
	fmt.Printf("expiry   %-22s %8.1f\n", tap, float64(used)/measure.Packets)
	if in != nil {
		return in.drain()
	}
	return nil
}
