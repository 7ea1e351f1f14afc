// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs, one per hook. Each says what calls the hooked function, in
 * which context, and what has happened to the entry by then; what a program
 * does is in hooks.h. Two kinds: fentry, fexit and tp_btf (names end in
 * _entry, _exit), and kprobes for kernels without module BTF (names k_..., r_...).
 * Built twice: with LEGACY the kprobes alone, for kernels before 5.12.
 */
#include "kernel.h"
#include "headers/bpf_helpers.h"
#include "headers/bpf_core_read.h"
#include "headers/bpf_tracing.h"
#include "wire.h"
#include "maps.h"
#include "compat.h"
#include "ct.h"
#include "emit.h"
#include "shed.h"
#include "hooks.h"
#include "netns.h"

/* Types that only casts mention, so that their BTF is written. */
const struct ct_rec *unused_ct_rec __attribute__((unused));
const struct ct_ext *unused_ct_ext __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- audit: what the ledger's equalities I1 and I9 need ------------- */

static __always_inline int audit(const struct nf_conn *ct, __u32 word)
{
	return count(bpf_get_smp_processor_id(), ct_netns(ct), word);
}

#ifndef LEGACY
/*
 * __nf_conntrack_confirm: last step of a new entry's first packet, from
 * nf_confirm (POST_ROUTING, LOCAL_IN), bridge, OVS, act_ct, IPVS. Softirq or a
 * local sender's own context. At exit the entry is in the hash, or the packet
 * is about to be dropped; skb is valid either way. Earlier functions
 * (__nf_conntrack_insert_prepare) have inlined copies in the clash path.
 */
SEC("fexit/__nf_conntrack_confirm")
int BPF_PROG(confirm_exit, struct sk_buff *skb, int ret)
{
	return done_by_first(NOTE_CONFIRM, (__u64)skb) ? 0 : on_confirm(skb, ret, true);
}

/*
 * nf_ct_resolve_clash: under the bucket locks, when the tuple of a packet's
 * new entry is already in the hash. The loser is still attached to the skb.
 * The winner's address is calculated with, so it is fetched as a number.
 */
SEC("fentry/nf_ct_resolve_clash")
int BPF_PROG(clash_entry, struct sk_buff *skb)
{
	__u64 h = 0;

	bpf_get_func_arg(ctx, 1, &h);
	return on_clash(skb, (void *)h, true);
}

/*
 * __nf_conntrack_alloc: first packet of a flow, before anything of the entry
 * exists; or a request of ctnetlink or a BPF program (hash 0).
 */
SEC("fexit/__nf_conntrack_alloc")
int BPF_PROG(alloc_exit, struct net *net, struct nf_conntrack_zone *zone, void *orig, void *repl, __u32 gfp,
	     __u32 hash, void *ret)
{
	return on_alloc((__u64)ret, net, zone, orig, hash, true);
}

/* early_drop: the table is over nf_conntrack_max; called by __nf_conntrack_alloc only. */
SEC("fentry/early_drop")
int BPF_PROG(edrop_entry)
{
	return on_early_drop_entry();
}

SEC("fexit/early_drop")
int BPF_PROG(edrop_exit, struct net *net, unsigned int hash, __u64 ret)
{
	return on_early_drop_exit(net, hash, ret, true);
}

/* nf_conntrack_hash_check_insert: ctnetlink (process) and BPF kfuncs (softirq). */
SEC("fexit/nf_conntrack_hash_check_insert")
int BPF_PROG(insert_exit, struct nf_conn *ct, int ret)
{
	return on_check_insert(ct, ret);
}

/*
 * __nf_ct_delete_from_lists: from nf_ct_delete only, once per entry that leaves
 * the hash. Any context, but always with softirqs off, so that the program is
 * never skipped. A static function: the loader says when it may be trusted.
 */
SEC("fentry/__nf_ct_delete_from_lists")
int BPF_PROG(unlink_entry, struct nf_conn *ct)
{
	return on_destroy(ctx, ct, true);
}

/*
 * nf_ct_helper_destroy: from nf_ct_delete only, right before the above, in
 * another object file than its caller, so never inlined. Any context.
 */
SEC("fentry/nf_ct_helper_destroy")
int BPF_PROG(destroy_entry, struct nf_conn *ct)
{
	return done_by_first(NOTE_DESTROY, (__u64)ct) ? 0 : on_destroy(ctx, ct, true);
}

/* gc_worker: the garbage collector's work item, one at a time, kworker. */
SEC("fentry/gc_worker")
int BPF_PROG(gc_entry)
{
	return on_scope_entry(SCOPE_GC, 0);
}

SEC("fexit/gc_worker")
int BPF_PROG(gc_exit)
{
	return on_scope_exit();
}

/* nf_ct_iterate_cleanup: flush, netns exit, masquerade cleanup, module unload. */
SEC("fentry/nf_ct_iterate_cleanup")
int BPF_PROG(iterate_entry)
{
	__u64 iter = 0, data = 0; /* the verifier lets no one load a function pointer */

	bpf_get_func_arg(ctx, 0, &iter);
	bpf_get_func_arg(ctx, 1, &data);
	return on_iterate_entry(iter, data);
}

SEC("fexit/nf_ct_iterate_cleanup")
int BPF_PROG(iterate_exit)
{
	return on_scope_exit();
}

/* ctnetlink_del_conntrack: a process deletes one entry (or flushes, nested). */
SEC("fentry/ctnetlink_del_conntrack")
int BPF_PROG(delete_entry)
{
	return on_scope_entry(SCOPE_DELETE, 0);
}

SEC("fexit/ctnetlink_del_conntrack")
int BPF_PROG(delete_exit)
{
	return on_scope_exit();
}

/* ctnetlink_dump_table: one chunk of a listing; reaps what has expired. */
SEC("fentry/ctnetlink_dump_table")
int BPF_PROG(dump_entry)
{
	return on_scope_entry(SCOPE_DUMP, 0);
}

SEC("fexit/ctnetlink_dump_table")
int BPF_PROG(dump_exit)
{
	return on_scope_exit();
}

/* ct_seq_show: one line of /proc/net/nf_conntrack; reaps it if it has expired. */
SEC("fentry/ct_seq_show")
int BPF_PROG(seq_entry)
{
	return on_scope_entry(SCOPE_DUMP, 0);
}

SEC("fexit/ct_seq_show")
int BPF_PROG(seq_exit)
{
	return on_scope_exit();
}

/* nf_ct_kill_acct: TCP and DCCP trackers on a reset, NAT on a changed route. */
SEC("fentry/nf_ct_kill_acct")
int BPF_PROG(kill_entry, struct nf_conn *ct, int ctinfo, struct sk_buff *skb)
{
	return on_kill_acct(ct, skb, true);
}

/* Runs although nf_ct_kill_acct ends in a jump to nf_ct_delete. */
SEC("fexit/nf_ct_kill_acct")
int BPF_PROG(kill_exit)
{
	return on_scope_exit();
}

/* skb:kfree_skb: a packet is freed and that is a loss. Any context. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_tp, struct sk_buff *skb, void *location, __u32 reason)
{
	return done_by_first(NOTE_KFREE, (__u64)skb) ? 0 : on_kfree_skb(skb, (__u64)location, reason, true);
}

/* nf_nat_setup_info: NAT chooses the tuple of an entry, once per side. */
SEC("fexit/nf_nat_setup_info")
int BPF_PROG(nat_exit, struct nf_conn *ct, void *range, __u32 maniptype, __u32 ret)
{
	return on_nat_setup(ct, maniptype, ret);
}

/* nf_nat_masquerade_ipv4, _ipv6: NF_DROP when there is no address to use. */
SEC("fexit/nf_nat_masquerade_ipv4")
int BPF_PROG(masq4_exit, struct sk_buff *skb, __u32 hook, void *range, void *out, __u32 ret)
{
	return ret == NF_DROP ? mark_context((__u64)skb, skb->_nfct & NFCT_PTRMASK, R_MASQ_NO_ADDR, true) : 0;
}

SEC("fexit/nf_nat_masquerade_ipv6")
int BPF_PROG(masq6_exit, struct sk_buff *skb, void *range, void *out, __u32 ret)
{
	return ret == NF_DROP ? mark_context((__u64)skb, skb->_nfct & NFCT_PTRMASK, R_MASQ_NO_ADDR, true) : 0;
}

/* nf_ct_seq_adjust: only packets of flows whose payload a helper has changed. */
SEC("fexit/nf_ct_seq_adjust")
int BPF_PROG(seqadj_exit, struct sk_buff *skb, struct nf_conn *ct, int ctinfo, __u32 protoff, int ret)
{
	return !ret ? mark_context((__u64)skb, (__u64)ct, R_SEQADJ, false) : 0;
}

/* nf_ct_expect_related_report: a helper wants an expectation. */
SEC("fexit/nf_ct_expect_related_report")
int BPF_PROG(expect_exit, struct nf_conntrack_expect *exp, __u32 portid, int report, __u32 flags, int ret)
{
	return on_expect((__u64)exp->master, ret);
}

/* nf_conncount_count_skb: 0 is an error, on which xt_connlimit drops. */
SEC("fexit/nf_conncount_count_skb")
int BPF_PROG(conncount_exit, struct net *net, struct sk_buff *skb, __u16 l3num, void *data, void *k, __u32 ret)
{
	return !ret ? mark_context((__u64)skb, 0, R_CONNLIMIT_ERROR, false) : 0;
}

/* synproxy_recv_client_ack, _ipv6: false when the cookie is wrong; the ACK is dropped. */
SEC("fexit/synproxy_recv_client_ack")
int BPF_PROG(cookie_exit, struct net *net, struct sk_buff *skb, void *th, void *opts, __u32 seq, __u64 ret)
{
	return !(ret & 0xff) ? mark_context((__u64)skb, 0, R_SYNPROXY_COOKIE, false) : 0;
}

SEC("fexit/synproxy_recv_client_ack_ipv6")
int BPF_PROG(cookie6_exit, struct net *net, struct sk_buff *skb, void *th, void *opts, __u32 seq, __u64 ret)
{
	return !(ret & 0xff) ? mark_context((__u64)skb, 0, R_SYNPROXY_COOKIE, false) : 0;
}

/* synproxy_send_client_synack, _ipv6: the SYN is answered and consumed. */
SEC("fentry/synproxy_send_client_synack")
int BPF_PROG(synack_entry, struct net *net, struct sk_buff *skb)
{
	return on_synack(skb, net->ns.inum, true);
}

SEC("fentry/synproxy_send_client_synack_ipv6")
int BPF_PROG(synack6_entry, struct net *net, struct sk_buff *skb)
{
	return on_synack(skb, net->ns.inum, true);
}

/* nf_conntrack_in: every packet; attached with --invalid only. */
SEC("fexit/nf_conntrack_in")
int BPF_PROG(in_exit, struct sk_buff *skb, struct nf_hook_state *state, int ret)
{
	return done_by_first(NOTE_IN, (__u64)skb) ? 0 : on_conntrack_in(skb, state, ret, true);
}

SEC("fexit/__nf_conntrack_alloc")
int BPF_PROG(audit_alloc, void *net, void *zone, void *orig, void *repl, __u32 gfp, __u32 hash, struct nf_conn *ret)
{
	return IS_ERR(ret) || done_by_first(NOTE_ALLOC, (__u64)ret) ? 0 : audit(ret, CNT(alloc));
}

SEC("fentry/nf_conntrack_free")
int BPF_PROG(audit_free, struct nf_conn *ct)
{
	return done_by_first(NOTE_FREE, (__u64)ct) ? 0 : audit(ct, CNT(free));
}

SEC("fexit/nf_conntrack_tuple_taken")
int BPF_PROG(audit_taken, void *tuple, struct nf_conn *ct, int ret)
{
	return !ret || done_by_first(NOTE_TAKEN, (__u64)ct) ? 0 : audit(ct, CNT(taken));
}

#endif /* LEGACY */

/* ---- the same hooks for kprobes ------------------------------------- */

enum { /* tags of argstash keys, shifted by one */
	ARG_CONFIRM = 1,
	ARG_ALLOC,
	ARG_INSERT,
	ARG_NAT,
	ARG_MASQ,
	ARG_SEQADJ,
	ARG_EXPECT,
	ARG_CONNCOUNT,
	ARG_COOKIE,
	ARG_IN,
	ARG_TAKEN,
};

static __always_inline int stash(__u32 tag, __u64 a0, __u64 a1, __u64 a2, __u64 a3, __u64 a4)
{
	struct args v = {{a0, a1, a2, a3, a4}};
	struct ct_cpu *c;
	__u64 key;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	key = ctx_key(c, cpu) | tag << 1;
	if (bpf_map_update_elem(&argstash, &key, &v, BPF_ANY))
		__sync_fetch_and_add(&c->stash_fail, 1);
	return 0;
}

static __always_inline bool unstash(__u32 tag, struct args *out)
{
	struct ct_cpu *c;
	struct args *v;
	__u64 key;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return false;
	key = ctx_key(c, cpu) | tag << 1;
	v = bpf_map_lookup_elem(&argstash, &key);
	if (!v)
		return false;
	*out = *v;
	bpf_map_delete_elem(&argstash, &key);
	return true;
}

SEC("kprobe/__nf_conntrack_confirm")
int BPF_KPROBE(k_confirm, void *skb)
{
	return stash(ARG_CONFIRM, (__u64)skb, 0, 0, 0, 0);
}

SEC("kretprobe/__nf_conntrack_confirm")
int BPF_KRETPROBE(r_confirm, int ret)
{
	struct args v;

	return unstash(ARG_CONFIRM, &v) ? on_confirm((void *)v.a[0], ret, false) : 0;
}

SEC("kprobe/nf_ct_resolve_clash")
int BPF_KPROBE(k_clash, struct sk_buff *skb, struct nf_conntrack_tuple_hash *h)
{
	return on_clash(skb, h, false);
}

SEC("kprobe/__nf_conntrack_alloc")
int k_alloc(struct pt_regs *ctx)
{
	/* net, zone, orig, hash: arguments 1, 2, 3 and 6 */
	return stash(ARG_ALLOC, ctx->di, ctx->si, ctx->dx, (__u32)ctx->r9, 0);
}

SEC("kretprobe/__nf_conntrack_alloc")
int BPF_KRETPROBE(r_alloc, __u64 ret)
{
	struct args v;

	if (!unstash(ARG_ALLOC, &v))
		return 0;
	return on_alloc(ret, (void *)v.a[0], (void *)v.a[1], (void *)v.a[2], v.a[3], false);
}

SEC("kprobe/early_drop")
int k_edrop(struct pt_regs *ctx)
{
	return on_early_drop_entry();
}

SEC("kretprobe/early_drop")
int BPF_KRETPROBE(r_edrop, __u64 ret)
{
	return on_early_drop_exit(NULL, 0, ret, false);
}

SEC("kprobe/nf_conntrack_hash_check_insert")
int BPF_KPROBE(k_insert, void *ct)
{
	return stash(ARG_INSERT, (__u64)ct, 0, 0, 0, 0);
}

SEC("kretprobe/nf_conntrack_hash_check_insert")
int BPF_KRETPROBE(r_insert, int ret)
{
	struct args v;

	return unstash(ARG_INSERT, &v) ? on_check_insert((void *)v.a[0], ret) : 0;
}

SEC("kprobe/nf_ct_helper_destroy")
int BPF_KPROBE(k_destroy, struct nf_conn *ct)
{
	return on_destroy(ctx, ct, false);
}

SEC("kprobe/gc_worker")
int k_gc(struct pt_regs *ctx)
{
	return on_scope_entry(SCOPE_GC, 0);
}

/* Leaves any scope: gc_worker, nf_ct_iterate_cleanup, ctnetlink, nf_ct_kill_acct. */
SEC("kretprobe/scope")
int r_scope(struct pt_regs *ctx)
{
	return on_scope_exit();
}

SEC("kprobe/nf_ct_iterate_cleanup")
int BPF_KPROBE(k_iterate, void *iter, void *data)
{
	return on_iterate_entry((__u64)iter, (__u64)data);
}

SEC("kprobe/ctnetlink_del_conntrack")
int k_delete(struct pt_regs *ctx)
{
	return on_scope_entry(SCOPE_DELETE, 0);
}

/* ctnetlink_dump_table and ct_seq_show. */
SEC("kprobe/ctnetlink_dump_table")
int k_dump(struct pt_regs *ctx)
{
	return on_scope_entry(SCOPE_DUMP, 0);
}

SEC("kprobe/nf_ct_kill_acct")
int BPF_KPROBE(k_kill, struct nf_conn *ct, int ctinfo, struct sk_buff *skb)
{
	return on_kill_acct(ct, skb, false);
}

/*
 * skb:kfree_skb through perf: excluded from kprobes on its CPU, which a raw
 * tracepoint is not. Fields of the tracepoint's format since 3.x; the reason
 * behind them (5.17) is not needed where this program is used.
 */
struct kfree_skb_ctx {
	__u64 common;
	struct sk_buff *skbaddr;
	void *location;
};

SEC("tracepoint/skb/kfree_skb")
int k_kfree(struct kfree_skb_ctx *ctx)
{
	return on_kfree_skb(ctx->skbaddr, (__u64)ctx->location, 0, false);
}

SEC("kprobe/nf_nat_setup_info")
int BPF_KPROBE(k_nat, void *ct, void *range, __u32 maniptype)
{
	return stash(ARG_NAT, (__u64)ct, maniptype, 0, 0, 0);
}

SEC("kretprobe/nf_nat_setup_info")
int BPF_KRETPROBE(r_nat, __u32 ret)
{
	struct args v;

	return unstash(ARG_NAT, &v) ? on_nat_setup((void *)v.a[0], v.a[1], ret) : 0;
}

/* nf_nat_masquerade_ipv4 and _ipv6. */
SEC("kprobe/nf_nat_masquerade")
int BPF_KPROBE(k_masq, void *skb)
{
	return stash(ARG_MASQ, (__u64)skb, 0, 0, 0, 0);
}

SEC("kretprobe/nf_nat_masquerade")
int BPF_KRETPROBE(r_masq, __u32 ret)
{
	struct sk_buff *skb;
	struct args v;

	if (!unstash(ARG_MASQ, &v) || ret != NF_DROP)
		return 0;
	skb = (void *)v.a[0];
	return mark_context((__u64)skb, BPF_CORE_READ(skb, _nfct) & NFCT_PTRMASK, R_MASQ_NO_ADDR, true);
}

SEC("kprobe/nf_ct_seq_adjust")
int BPF_KPROBE(k_seqadj, void *skb, void *ct)
{
	return stash(ARG_SEQADJ, (__u64)skb, (__u64)ct, 0, 0, 0);
}

SEC("kretprobe/nf_ct_seq_adjust")
int BPF_KRETPROBE(r_seqadj, int ret)
{
	struct args v;

	return unstash(ARG_SEQADJ, &v) && !ret ? mark_context(v.a[0], v.a[1], R_SEQADJ, false) : 0;
}

SEC("kprobe/nf_ct_expect_related_report")
int BPF_KPROBE(k_expect, struct nf_conntrack_expect *exp)
{
	return stash(ARG_EXPECT, (__u64)BPF_CORE_READ(exp, master), 0, 0, 0, 0);
}

SEC("kretprobe/nf_ct_expect_related_report")
int BPF_KRETPROBE(r_expect, int ret)
{
	struct args v;

	return unstash(ARG_EXPECT, &v) ? on_expect(v.a[0], ret) : 0;
}

SEC("kprobe/nf_conncount_count_skb")
int BPF_KPROBE(k_conncount, void *net, void *skb)
{
	return stash(ARG_CONNCOUNT, (__u64)skb, 0, 0, 0, 0);
}

SEC("kretprobe/nf_conncount_count_skb")
int BPF_KRETPROBE(r_conncount, __u32 ret)
{
	struct args v;

	return unstash(ARG_CONNCOUNT, &v) && !ret ? mark_context(v.a[0], 0, R_CONNLIMIT_ERROR, false) : 0;
}

/* synproxy_recv_client_ack and _ipv6. */
SEC("kprobe/synproxy_recv_client_ack")
int BPF_KPROBE(k_cookie, void *net, void *skb)
{
	return stash(ARG_COOKIE, (__u64)skb, 0, 0, 0, 0);
}

SEC("kretprobe/synproxy_recv_client_ack")
int BPF_KRETPROBE(r_cookie, __u64 ret)
{
	struct args v;

	return unstash(ARG_COOKIE, &v) && !(ret & 0xff) ? mark_context(v.a[0], 0, R_SYNPROXY_COOKIE, false) : 0;
}

/* synproxy_send_client_synack and _ipv6. */
SEC("kprobe/synproxy_send_client_synack")
int BPF_KPROBE(k_synack, struct net *net, struct sk_buff *skb)
{
	return on_synack(skb, BPF_CORE_READ(net, ns.inum), false);
}

/*
 * nf_ct_helper_log: a helper tells why it drops. Variadic, so that fentry
 * refuses it; entered whether or not logging is on. The fentry backend uses
 * this program too.
 */
SEC("kprobe/nf_ct_helper_log")
int BPF_KPROBE(k_helper, void *skb, void *ct)
{
	return mark_context((__u64)skb, (__u64)ct, R_HELPER, true);
}

SEC("kprobe/nf_conntrack_in")
int BPF_KPROBE(k_in, void *skb, void *state)
{
	return stash(ARG_IN, (__u64)skb, (__u64)state, 0, 0, 0);
}

SEC("kretprobe/nf_conntrack_in")
int BPF_KRETPROBE(r_in, int ret)
{
	struct args v;

	return unstash(ARG_IN, &v) ? on_conntrack_in((void *)v.a[0], (void *)v.a[1], ret, false) : 0;
}

SEC("kprobe/nf_conntrack_free")
int BPF_KPROBE(k_free, struct nf_conn *ct)
{
	return audit(ct, CNT(free));
}

SEC("kretprobe/__nf_conntrack_alloc")
int BPF_KRETPROBE(r_audit, struct nf_conn *ret)
{
	return IS_ERR(ret) ? 0 : audit(ret, CNT(alloc));
}

SEC("kprobe/nf_conntrack_tuple_taken")
int BPF_KPROBE(k_taken, void *tuple, void *ct)
{
	return stash(ARG_TAKEN, (__u64)ct, 0, 0, 0, 0);
}

SEC("kretprobe/nf_conntrack_tuple_taken")
int BPF_KRETPROBE(r_taken, int ret)
{
	struct args v;

	return unstash(ARG_TAKEN, &v) && ret ? audit((void *)v.a[0], CNT(taken)) : 0;
}

/* ---- peek ------------------------------------------------------------ */

/*
 * Looks at up to n entries by address, under BPF_PROG_TEST_RUN, so only when
 * user space asks. The slab is SLAB_TYPESAFE_BY_RCU: memory once an entry
 * stays readable, and what no longer matches is gone.
 */
static __always_inline bool peek_read(struct ct_peek *p, struct ct_rec *r, const struct nf_conn *ct)
{
	if (bpf_probe_read_kernel(&r->status, 4, __builtin_preserve_access_index(&ct->status)))
		return false;
	ct_copy(r, ct);
	p->timeout = (__s32)(BPF_CORE_READ(ct, timeout) - (__u32)bpf_jiffies64());
	p->tcp_state = BPF_CORE_READ(ct, proto.tcp.state);
	p->status = r->status;
	return true;
}

static __always_inline bool is_live(__u32 status)
{
	return (status & IPS_CONFIRMED) && !(status & IPS_DYING);
}

__noinline int peek_one(__u32 i)
{
	struct ct_rec r = {};
	const struct nf_conn *ct;
	struct ct_peek *p;

	p = bpf_map_lookup_elem(&peeks, &i);
	if (!p)
		return 0;
	ct = (void *)p->ptr;
	p->result = PEEK_FAULT;
	if (!peek_read(p, &r, ct))
		return 0;
	p->result = PEEK_GONE;
	if (tuple_equal(&r.orig, &p->orig) && ct_netns(ct) == p->netns && r.zone == p->zone && is_live(r.status))
		p->result = PEEK_LIVE;
	return 0;
}

SEC("raw_tp/ctsight_peek")
int peek(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 n = *(__u64 *)ctx;
	__u32 i;

	for (i = 0; i < PEEK_BATCH && i < n; i++)
		peek_one(i);
	return 0;
}

/*
 * Reads the hash table without a lock, as the kernel's own lookups do: nodes
 * stay readable, and a chain that does not end in the mark of its bucket has
 * lost us to another, so it is begun again. One step is one node or one bucket.
 */
#define WALK_STEPS 1024 /* the verifier follows each: 12 instructions of 5.10 */
#define WALK_TRIES 4

static __always_inline void walk_next(bool whole)
{
	walking.cut += !whole;
	walking.bucket++;
	walking.node = 0;
	walking.tries = 0;
}

__noinline int walk_step(__u32 step)
{
	__u64 node = walking.node;
	const struct nf_conn *ct;
	struct ct_rec r = {};
	struct ct_peek *p;
	__u32 i;

	if (!node) {
		if (walking.bucket >= walking.until)
			return 1;
		if (bpf_probe_read_kernel(&node, sizeof(node), (void *)(walking.hash + walking.bucket * 8ULL)) || !node) {
			walk_next(false);
			return 0;
		}
		walking.mark = walking.out;
		walking.node = node;
		return 0;
	}
	if (node & 1) {
		if (node >> 1 == walking.bucket) {
			walk_next(true);
		} else if (walking.tries++ < WALK_TRIES) {
			walking.out = walking.mark;
			walking.node = 0;
		} else {
			walk_next(false);
		}
		return 0;
	}
	if (walking.out >= PEEK_BATCH) {
		if (walking.mark) { /* the next run begins it again */
			walking.out = walking.mark;
			walking.node = 0;
		} else {
			walk_next(false);
		}
		return 1;
	}
	if (bpf_probe_read_kernel(&walking.node, sizeof(__u64), (void *)node)) {
		walk_next(false);
		return 0;
	}
	ct = (void *)(node - bpf_core_field_offset(struct nf_conn, tuplehash));
	i = walking.out;
	p = bpf_map_lookup_elem(&peeks, &i);
	if (!p || !peek_read(p, &r, ct))
		return 0;
	/* The node of the other direction lies further on, and what stands there
	 * as an entry would be: its original tuple calls itself the reply. */
	if (r.orig.dir || !is_live(r.status))
		return 0;
	p->ptr = (__u64)ct;
	p->orig = r.orig;
	p->zone = r.zone;
	p->netns = ct_netns(ct);
	p->result = PEEK_LIVE;
	walking.out++;
	return 0;
}

SEC("raw_tp/ctsight_walk")
int walk(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 hash = 0;
	__u32 size = 0, i;

	if (!ksyms.hash || !ksyms.htable_size)
		return 0;
	bpf_probe_read_kernel(&hash, sizeof(hash), (void *)ksyms.hash);
	bpf_probe_read_kernel(&size, sizeof(size), (void *)ksyms.htable_size);
	if (hash != walking.hash || size != walking.size) {
		walking.hash = hash;
		walking.size = size;
		walking.resized++;
	}
	if (walking.until > size)
		walking.until = size;
	for (i = 0; i < WALK_STEPS; i++)
		if (walk_step(i))
			break;
	return 0;
}
