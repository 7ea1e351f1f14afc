package filter

import (
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ctsight/ctsight/internal/event"
)

func TestKernel(t *testing.T) {
	kinds := func(ks ...event.Kind) (m uint32) {
		for _, k := range ks {
			m |= 1 << k
		}
		return m
	}
	with := func(change func(*Kernel)) Kernel {
		k := AnyKernel()
		change(&k)
		return k
	}
	for _, tc := range []struct {
		filter string
		want   Kernel
	}{
		{"", AnyKernel()},
		{"new", with(func(k *Kernel) { k.Kinds = kinds(event.New) })},
		{"new or drop", with(func(k *Kernel) { k.Kinds = kinds(event.New, event.Drop) })},
		{"not new", with(func(k *Kernel) { k.Kinds = ^kinds(event.New) })},
		{"not (new or drop)", with(func(k *Kernel) { k.Kinds = ^kinds(event.New, event.Drop) })},
		{"new and drop", noKernel()},
		{"reason table_full,nat_exhausted drop", with(func(k *Kernel) {
			k.Kinds, k.ReasonMask = kinds(event.Drop), 1<<event.TableFull|1<<event.NATExhausted
		})},
		{"reason table_full or cause early_drop", with(func(k *Kernel) {
			k.Kinds = kinds(event.Drop, event.Note, event.Invalid, event.Destroy)
			k.ReasonMask, k.CauseMask = 1<<event.TableFull, 1<<event.EarlyDrop
		})},
		{"new or reason table_full", with(func(k *Kernel) {
			k.Kinds = kinds(event.New, event.Drop, event.Note, event.Invalid)
			k.ReasonMask = 1 << event.TableFull
		})},
		{"not reason table_full", with(func(k *Kernel) { k.ReasonMask = ^uint64(1 << event.TableFull) })},
		{"not cause early_drop", with(func(k *Kernel) { k.CauseMask = ^uint32(1 << event.EarlyDrop) })},
		{"reason 70", with(func(k *Kernel) { k.Kinds, k.ReasonMask, k.Exact = reasonKinds, 1<<63, false })},
		{"not reason 70", with(func(k *Kernel) { k.Exact = false })},
		{"drop reason table_full or note reason clash_merged", with(func(k *Kernel) {
			k.Kinds, k.Exact = kinds(event.Drop, event.Note), false
			k.ReasonMask = 1<<event.TableFull | 1<<event.ClashMerged
		})},
		{"src 10.0.0.0/8 and dport 53", with(func(k *Kernel) {
			k.Src = netip.MustParsePrefix("10.0.0.0/8")
			k.DportMin, k.DportMax = 53, 53
		})},
		{"src 10.0.0.0/8 src 10.1.0.0/16 sport 5-10 sport 7-20", with(func(k *Kernel) {
			k.Src = netip.MustParsePrefix("10.1.0.0/16")
			k.SportMin, k.SportMax = 7, 10
		})},
		{"src 10.0.0.0/8 src 11.0.0.0/8", noKernel()},
		{"src 10.0.0.0/25 or src 10.0.0.128/25", with(func(k *Kernel) { k.Src = netip.MustParsePrefix("10.0.0.0/24") })},
		{"src 10.0.0.1,10.0.0.9", with(func(k *Kernel) { k.Src, k.Exact = netip.MustParsePrefix("10.0.0.0/28"), false })},
		{"dport 80,81-90", with(func(k *Kernel) { k.DportMin, k.DportMax = 80, 90 })},
		{"dport 80,443", with(func(k *Kernel) { k.DportMin, k.DportMax, k.Exact = 80, 443, false })},
		{"dport 0-100,101-65535", with(func(k *Kernel) { k.Exact = false })}, // not ICMP
		{"host 10.0.0.1", with(func(k *Kernel) { k.Exact = false })},
		{"host 10.0.0.1 new", with(func(k *Kernel) { k.Kinds, k.Exact = kinds(event.New), false })},
		{"not src 10.0.0.1", with(func(k *Kernel) { k.Exact = false })},
		{"netns 5 zone 7 udp", with(func(k *Kernel) { k.NetNS, k.Zone, k.Proto = 5, 7, event.ProtoUDP })},
		{"tcp or udp", with(func(k *Kernel) { k.Exact = false })},
		{"(tcp dport 80) or (tcp dport 81)", with(func(k *Kernel) { k.Proto, k.DportMin, k.DportMax = event.ProtoTCP, 80, 81 })},
		{"tcp or (tcp dport 80)", with(func(k *Kernel) { k.Proto = event.ProtoTCP })},
		{"(tcp mark 1) or tcp", with(func(k *Kernel) { k.Proto = event.ProtoTCP })},
		{"mark 1", with(func(k *Kernel) { k.Exact = false })},
		{"proto 0", with(func(k *Kernel) { k.Exact = false })},
		{"ip", with(func(k *Kernel) { k.Src = netip.MustParsePrefix("0.0.0.0/0") })},
		{"ip or ip6", with(func(k *Kernel) { k.Exact = false })},
		{"not (not tcp or not dport 53)", with(func(k *Kernel) { k.Proto, k.DportMin, k.DportMax = event.ProtoTCP, 53, 53 })},
	} {
		f, err := Parse(tc.filter, Options{})
		if err != nil {
			t.Errorf("%q: %v", tc.filter, err)
			continue
		}
		if diff := cmp.Diff(tc.want, f.Kernel(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.filter, diff)
		}
	}
}

func TestKernelAny(t *testing.T) {
	k := AnyKernel()
	k.Exact = false
	if !k.Any() {
		t.Error("a filter the kernel cannot check at all is any")
	}
	k.Kinds = math.MaxUint32 - 1
	if k.Any() {
		t.Error("one kind less is not any")
	}
}
