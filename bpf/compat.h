/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Everything that differs between kernels, and nothing else. */
#ifndef CTSIGHT_COMPAT_H
#define CTSIGHT_COMPAT_H

/*
 * RD reads a field of a kernel struct. In fentry, fexit and tp_btf programs
 * the verifier knows the pointer's type and a plain load is allowed and cheap;
 * in kprobe programs it does not. typed is a constant in every use.
 */
#define RD(typed, p, field) ((typed) ? (p)->field : BPF_CORE_READ(p, field))

/*
 * Kernels before 5.12 know neither a fetching add nor a compare-and-swap. The
 * object built with LEGACY holds only programs that exclude each other on a CPU
 * (kprobes and tracepoints, bpf_prog_active in trace_call_bpf), so that plain
 * arithmetic is exact there. All others may be interrupted by one another.
 */
static __always_inline __u64 fetch_add(__u64 *p, __u64 n)
{
#ifdef LEGACY
	__u64 old = *(volatile __u64 *)p;

	*(volatile __u64 *)p = old + n;
	return old;
#else
	return __sync_fetch_and_add(p, n);
#endif
}

static __always_inline bool claim(__u32 *p, __u32 v)
{
#ifdef LEGACY
	__u32 was = *(volatile __u32 *)p;

	if (!was)
		*(volatile __u32 *)p = v;
#else
	__u32 was = __sync_val_compare_and_swap(p, 0, v);
#endif
	return was == 0 || was == v;
}

/*
 * Whether the extensions of an entry are from before a module was unloaded
 * (nf_ct_ext_valid_pre(), 5.19 to 6.18 and 6.1.y). Other kernels have no
 * gen_id and never refuse for this reason.
 */
static __always_inline bool ext_is_stale(const struct nf_conn *ct, __u64 genid_addr)
{
	const struct nf_ct_ext *ext;
	__u32 id = 0, now = 0;

	if (!bpf_core_field_exists(((struct nf_ct_ext *)0)->gen_id) || !genid_addr)
		return false;
	ext = BPF_CORE_READ(ct, ext);
	if (!ext)
		return false;
	id = BPF_CORE_READ(ext, gen_id);
	if (bpf_probe_read_kernel(&now, sizeof(now), (void *)genid_addr))
		return false;
	return id && id != now;
}

/* Is the reason of kfree_skb "a netfilter verdict"? Before 5.17 there is none. */
static __always_inline bool reason_is_netfilter(__u32 reason)
{
	if (!bpf_core_enum_value_exists(enum skb_drop_reason, SKB_DROP_REASON_NETFILTER_DROP))
		return false;
	return reason == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_NETFILTER_DROP);
}

#endif
