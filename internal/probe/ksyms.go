package probe

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// symbols is what /proc/kallsyms and /proc/modules say, as far as asked for.
type symbols struct {
	addr map[string]uint64 // exact name -> address
	in   map[string]string // exact name -> module, where there is one
	text []uint64          // all text addresses, sorted: the next one ends a function
	mods map[string][2]uint64
}

// errHidden means that the kernel shows no addresses (kptr_restrict).
var errHidden = errors.New("/proc/kallsyms shows no addresses: needs CAP_SYSLOG and kernel.kptr_restrict below 2")

// wantedSymbols are data and text symbols that programs compare against.
var wantedSymbols = []string{"__per_cpu_offset", "__preempt_count", "pcpu_hot", "nf_conntrack_ext_genid",
	"nf_conntrack_hash", "nf_conntrack_htable_size", "iter_net_only", "ctnetlink_flush_iterate", "kill_all", "device_cmp", "inet_cmp", "nf_nat_proto_clean"}

// callerRanges name the functions, and the modules, whose presence on the
// stack tells the cause of a delete that neither timeout nor scope explains.
var callerRanges = []struct {
	cause  event.Cause
	module string
	funcs  []string
}{
	{event.TCPReopen, "", []string{"nf_conntrack_tcp_packet"}},
	{event.CauseExtStale, "", []string{"__nf_conntrack_confirm"}},
	{event.PPTP, "nf_conntrack_pptp", []string{"destroy_sibling_or_exp", "pptp_destroy_siblings", "gre_pptp_destroy_siblings"}},
	{event.NATPortReuse, "nf_nat", []string{"get_unique_tuple", "nf_nat_setup_info", "nf_nat_l4proto_unique_tuple"}},
	{event.ForceCommit, "openvswitch", []string{"ovs_ct_execute"}},
	{event.ForceCommit, "act_ct", []string{"tcf_ct_act"}},
	{event.IPVS, "ip_vs", []string{"ip_vs_conn_drop_conntrack"}},
	{event.FlowTable, "nf_flow_table", nil},
}

// readSymbols reads kallsyms once; it takes some tens of milliseconds.
func readSymbols() (*symbols, error) {
	data, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	want := map[string]bool{}
	for _, n := range wantedSymbols {
		want[n] = true
	}
	for _, h := range hooks {
		want[h.symbol] = true
	}
	for _, r := range callerRanges {
		for _, f := range r.funcs {
			want[f] = true
		}
	}
	for _, n := range []string{"nf_hook_slow", "nft_do_chain", "nf_queue", "nf_ct_gc_expired", "nf_ct_gc_expired.part.0"} {
		want[n] = true
	}
	s := &symbols{addr: map[string]uint64{}, in: map[string]string{}, mods: readModules()}
	for len(data) > 0 {
		line := data
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, data = data[:i], data[i+1:]
		} else {
			data = nil
		}
		s.add(line, want)
	}
	slices.Sort(s.text)
	if len(s.text) == 0 || s.text[len(s.text)-1] == 0 {
		return s, errHidden
	}
	return s, nil
}

// add takes one line: address, type, name, and the module in brackets.
func (s *symbols) add(line []byte, want map[string]bool) {
	f := bytes.Fields(line)
	if len(f) < 3 || len(f[1]) != 1 {
		return
	}
	isText := f[1][0] == 't' || f[1][0] == 'T'
	if !isText && !want[string(f[2])] {
		return
	}
	a, err := strconv.ParseUint(string(f[0]), 16, 64)
	if err != nil {
		return
	}
	if isText {
		s.text = append(s.text, a)
	}
	if name := string(f[2]); want[name] {
		if _, dup := s.addr[name]; !dup {
			s.addr[name] = a
			if len(f) > 3 {
				s.in[name] = string(bytes.Trim(f[3], "[]"))
			}
		}
	}
}

// readModules returns base address and end of those hookModules that are loaded.
func readModules() map[string][2]uint64 {
	data, err := os.ReadFile("/proc/modules")
	if err != nil {
		return map[string][2]uint64{} // no modules at all: everything is built in
	}
	return parseModules(data)
}

// parseModules leaves out modules that are coming or going: nothing can be
// attached to them yet, and Rescan is to look again when they are there.
func parseModules(data []byte) map[string][2]uint64 {
	out := map[string][2]uint64{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 6 || f[4] != "Live" || !slices.Contains(hookModules, f[0]) {
			continue
		}
		size, _ := strconv.ParseUint(f[1], 10, 64)
		base, _ := strconv.ParseUint(strings.TrimPrefix(f[5], "0x"), 16, 64)
		out[f[0]] = [2]uint64{base, base + size}
	}
	return out
}

// fn returns start and end of a function, zeros when it is unknown.
func (s *symbols) fn(name string) [2]uint64 {
	a := s.addr[name]
	if a == 0 {
		return [2]uint64{}
	}
	i, _ := slices.BinarySearch(s.text, a+1)
	if i >= len(s.text) {
		return [2]uint64{a, a + 4096}
	}
	return [2]uint64{a, s.text[i]}
}

// gcExpired is nf_ct_gc_expired, or what GCC has split off it.
func (s *symbols) gcExpired() [2]uint64 {
	if r := s.fn("nf_ct_gc_expired.part.0"); r[0] != 0 {
		return r
	}
	return s.fn("nf_ct_gc_expired")
}

// ksyms fills the table that programs compare addresses against.
func (s *symbols) ksyms(kernel *btf.Spec) abi.ConntrackCtKsyms {
	k := abi.ConntrackCtKsyms{
		PerCpuOffset: s.addr["__per_cpu_offset"],
		PreemptCount: s.addr["__preempt_count"],
		ExtGenid:     s.addr["nf_conntrack_ext_genid"],
		IterNetOnly:  s.addr["iter_net_only"],
		Hash:         s.addr["nf_conntrack_hash"],
		HtableSize:   s.addr["nf_conntrack_htable_size"],
		Flush:        s.addr["ctnetlink_flush_iterate"],
		KillAll:      s.addr["kill_all"],
		DeviceCmp:    s.addr["device_cmp"],
		InetCmp:      s.addr["inet_cmp"],
		ProtoClean:   s.addr["nf_nat_proto_clean"],
		HookSlow:     s.fn("nf_hook_slow"),
		NftChain:     s.fn("nft_do_chain"),
		NfQueue:      s.fn("nf_queue"),
		GcExpired:    s.gcExpired(),
	}
	if k.PreemptCount == 0 && s.addr["pcpu_hot"] != 0 {
		k.PreemptCount = s.addr["pcpu_hot"] + memberOffset(kernel, "pcpu_hot", "preempt_count")
	}
	i := 0
	put := func(r [2]uint64, c event.Cause) {
		if r[0] != 0 && i < len(k.Range) {
			k.Range[i].Start, k.Range[i].End, k.Range[i].Cause = r[0], r[1], uint64(c)
			i++
		}
	}
	for _, r := range callerRanges {
		m, loaded := s.mods[r.module]
		if loaded {
			put(m, r.cause)
		}
		for _, f := range r.funcs {
			if a := s.fn(f); !loaded || a[0] < m[0] || a[0] >= m[1] {
				put(a, r.cause)
			}
		}
	}
	return k
}

// memberOffset returns the byte offset of a member, also inside the anonymous
// unions that surround it; 0 when it is not found.
func memberOffset(spec *btf.Spec, typ, member string) uint64 {
	var st *btf.Struct
	if spec == nil || spec.TypeByName(typ, &st) != nil {
		return 0
	}
	off, _ := findMember(st.Members, member)
	return uint64(off.Bytes())
}

func findMember(ms []btf.Member, name string) (btf.Bits, bool) {
	for _, m := range ms {
		if m.Name == name {
			return m.Offset, true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if off, ok := findMember(inner, name); ok {
			return m.Offset + off, true
		}
	}
	return 0, false
}
