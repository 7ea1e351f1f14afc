// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The backend for kernels that take no function hooks: programs at netfilter's
 * own hooks, before and after the lookup of conntrack and just before its
 * insert, and one where packets are freed. From where a packet had come to
 * when it was freed follows who lost it:
 *
 *	nf_pre	-201 ........ stage 1: conntrack has not seen it yet
 *	conntrack -200
 *	nf_post	-199 ........ no entry: stage 3, invalid; an entry: no stage
 *	the rules, NAT, routing
 *	nf_last	INT_MAX-1 ... an entry not yet inserted: stage 4
 *	confirm INT_MAX
 *
 * Freed in stage 1: conntrack refused it. In stage 3: a rule dropped an invalid
 * packet. In stage 4, its entry never hashed: the insert failed. In none, its
 * entry never hashed: a rule, or the way between them, dropped a first packet.
 *
 * Programs of type netfilter have no recursion guard: they are never skipped,
 * and they may interrupt each other anywhere. Atomics only.
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
#define NEVER_SHED
#include "shed.h"
#include "hooks.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Jiffies per second; set by the loader. */
const volatile __u32 cfg_hz = 250;

/* A NEW record told too early: user space takes it back (see K_DROP). */
#define K_CANCEL 8

#define BPF_F_NO_PREALLOC (1U << 0)
#define NFPROTO_IPV6 10
#define NF_INET_POST_ROUTING 4
#define IPS_SRC_NAT (1 << 4)
#define IP_CT_RELATED 1
#define IP_CT_NEW 2
#define PRI_CONNTRACK (-200)

struct sk_buff___n {
	unsigned int len;
} __attribute__((preserve_access_index));

static __always_inline __u32 skb_len(struct sk_buff *skb)
{
	return ((struct sk_buff___n *)skb)->len;
}

/* ---- the stage of a packet on its way ------------------------------- */

enum {
	ST_PRE = 1,
	ST_INVALID = 3,
	ST_LAST = 4,
};

/*
 * Packets on their way, by address: four places for each hash value. Not a
 * hash map: every packet comes in and leaves again, and of two map operations
 * a packet would feel as much as of all the rest. A packet belongs to one
 * context at a time, so only taking a place needs care.
 */
struct st_slot {
	__u64 skb;  /* skb_key(); 0: free */
	__u64 ptr;  /* ST_LAST: the entry; else struct net */
	__u32 seen; /* jiffies */
	__u32 len;  /* ST_INVALID: of the packet, to know it again */
	__u16 zone; /* ST_PRE: of the template */
	__u8 stage;
	__u8 hook; /* netfilter hook, and ST_V6 */
	__u32 pad;
};
#define ST_V6 0x80
#define ST_WAYS 4
#define ST_BITS 14
struct st_bucket {
	struct st_slot slot[ST_WAYS];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << ST_BITS);
	__type(key, __u32);
	__type(value, struct st_bucket);
} st SEC(".maps");

/* Namespaces whose links are all in place: key inode number. Loader writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} linked SEC(".maps");

/*
 * A packet's address as a number. The verifier allows no arithmetic on typed
 * pointers but the difference of two; the other one never changes.
 */
static __always_inline __u64 skb_key(const struct sk_buff *skb)
{
	return (__u64)skb - (__u64)&pending;
}

static __always_inline struct st_bucket *st_bucket(__u64 skb)
{
	__u32 i = (skb >> 6) * 0x9e3779b97f4a7c15ULL >> (64 - ST_BITS);

	return bpf_map_lookup_elem(&st, &i);
}

static __always_inline struct st_slot *st_in(struct st_bucket *b, __u64 skb)
{
	int i;

#pragma unroll
	for (i = 0; i < ST_WAYS; i++)
		if (*(volatile __u64 *)&b->slot[i].skb == skb)
			return &b->slot[i];
	return NULL;
}

static __always_inline struct st_slot *st_find(__u64 skb)
{
	struct st_bucket *b = st_bucket(skb);

	return b ? st_in(b, skb) : NULL;
}

static __always_inline void st_free(struct st_slot *s)
{
	*(volatile __u64 *)&s->skb = 0;
}

/*
 * Whether what a place holds is of no use any more. Confirm follows nf_last at
 * once, and after that nobody tells us: those places are left to whoever comes
 * next. Packets of other stages are cleared by the next program, unless
 * something took them out of the path.
 */
static __always_inline bool st_stale(const struct st_slot *s, __u32 now)
{
	__u32 age = now - s->seen;

	return age > (s->stage == ST_LAST ? cfg_hz / 20 + 1 : cfg_hz * 2);
}

/* The place of a packet; a new one where it has none. NULL when all are taken. */
static __always_inline struct st_slot *st_take(__u64 skb, __u32 now)
{
	struct st_bucket *b = st_bucket(skb);
	struct st_slot *s;
	__u64 old;
	int i;

	if (!b)
		return NULL;
	s = st_in(b, skb);
	if (s)
		return s;
#pragma unroll
	for (i = 0; i < ST_WAYS; i++) {
		s = &b->slot[i];
		if (!*(volatile __u64 *)&s->skb && !__sync_val_compare_and_swap(&s->skb, 0, skb))
			return s;
	}
#pragma unroll
	for (i = 0; i < ST_WAYS; i++) {
		s = &b->slot[i];
		old = *(volatile __u64 *)&s->skb;
		if (st_stale(s, now) && __sync_val_compare_and_swap(&s->skb, old, skb) == old)
			return s;
	}
	return NULL;
}

/* Puts a packet into a stage; without room its loss will not be noticed. */
static __always_inline void st_set(struct sk_buff *skb, const struct nf_hook_state *state, __u8 stage, __u64 ptr,
				   __u16 zone)
{
	__u32 now = bpf_jiffies64(), cpu;
	struct st_slot *s = st_take(skb_key(skb), now);
	struct ct_cpu *c;

	if (!s) {
		c = cpu_state(&cpu);
		if (c)
			__sync_fetch_and_add(&c->stash_fail, 1);
		return;
	}
	s->ptr = ptr;
	s->seen = now;
	s->len = stage == ST_INVALID ? skb_len(skb) : 0;
	s->zone = zone;
	s->stage = stage;
	s->hook = state->hook | (state->pf == NFPROTO_IPV6 ? ST_V6 : 0);
}

/* ---- what conntrack would do here ----------------------------------- */

struct nf_hook_entries___n {
	__u16 num_hook_entries;
	struct nf_hook_entry___n {
		void *hook, *priv;
	} hooks[];
} __attribute__((preserve_access_index));

enum nf_hook_ops_type {
	NF_HOOK_OP_UNDEFINED, /* neither nftables nor BPF */
};

struct nf_hook_ops___n {
	enum nf_hook_ops_type hook_ops_type : 8;
	int priority;
} __attribute__((preserve_access_index));

struct netns_nf {
	struct nf_hook_entries___n *hooks_ipv4[5];
	struct nf_hook_entries___n *hooks_ipv6[5];
} __attribute__((preserve_access_index));

struct net___n {
	struct netns_nf nf;
} __attribute__((preserve_access_index));

/*
 * Whether conntrack looks at packets of this hook: it does so only where a
 * rule needs it. Elsewhere no packet has an entry and none is invalid. Looks
 * through the hooks for the one at conntrack's priority that is neither a
 * chain of nftables nor ours.
 */
static __always_inline bool conntrack_active(__u64 net, __u8 hook)
{
	__u64 list = net + (hook & ST_V6 ? bpf_core_field_offset(struct net___n, nf.hooks_ipv6) :
					   bpf_core_field_offset(struct net___n, nf.hooks_ipv4));
	struct nf_hook_entries___n *e = NULL;
	struct nf_hook_ops___n *ops;
	__u64 table;
	__u16 i, n;
	int prio;

	bpf_probe_read_kernel(&e, sizeof(e), (void *)(list + 8 * (hook & 7)));
	if (!e)
		return false;
	n = BPF_CORE_READ(e, num_hook_entries);
	table = (__u64)e + bpf_core_field_offset(struct nf_hook_entries___n, hooks) + n * 16; /* nf_hook_entries_get_hook_ops() */
	for (i = 0; i < 64 && i < n; i++) {
		ops = NULL;
		bpf_probe_read_kernel(&ops, sizeof(ops), (void *)(table + 8 * i));
		if (!ops)
			return false;
		prio = BPF_CORE_READ(ops, priority);
		if (prio > PRI_CONNTRACK)
			return false;
		if (prio == PRI_CONNTRACK && BPF_CORE_READ_BITFIELD_PROBED(ops, hook_ops_type) == NF_HOOK_OP_UNDEFINED)
			return true;
	}
	return false;
}

struct net_device___n {
	unsigned long priv_flags;
} __attribute__((preserve_access_index));

/* in_vrf_postrouting(): confirm passes over the VRF device and acts at the next. */
static __always_inline bool in_vrf_postrouting(const struct nf_hook_state *state)
{
	struct net_device___n *out = (void *)state->out;

	if (state->hook != NF_INET_POST_ROUTING || !out)
		return false;
	return BPF_CORE_READ_BITFIELD_PROBED(out, priv_flags) & (1 << 18); /* IFF_L3MDEV_MASTER */
}

/* ---- the programs --------------------------------------------------- */

/*
 * PRE_ROUTING and LOCAL_OUT, right before conntrack. A packet that has an entry
 * already (the second pass over loopback) is not looked at; a template only
 * says in which zone to look.
 */
SEC("netfilter")
int nf_pre(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sk_buff *skb = ctx->skb;
	const struct nf_conn *tmpl = (void *)(skb->_nfct & NFCT_PTRMASK);
	__u16 zone = 0;

	if (skb->_nfct) {
		if (!tmpl || !(BPF_CORE_READ(tmpl, status) & IPS_TEMPLATE))
			return NF_ACCEPT;
		zone = ct_zone(tmpl);
	}
	st_set(skb, state, ST_PRE, (__u64)state->net, zone);
	return NF_ACCEPT;
}

/* The same hooks, right after conntrack. No entry and not untracked: invalid. */
SEC("netfilter")
int nf_post(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sk_buff *skb = ctx->skb;
	struct st_slot *s;

	if (!skb->_nfct) {
		st_set(skb, state, ST_INVALID, (__u64)state->net, 0);
		return NF_ACCEPT;
	}
	s = st_find(skb_key(skb));
	if (s)
		st_free(s);
	return NF_ACCEPT;
}

/*
 * POST_ROUTING and LOCAL_IN, right before confirm. An entry that is not yet
 * inserted will be, or the packet is lost: counted as new here, and taken back
 * by nf_kfree. Packets of answered flows (IP_CT_ESTABLISHED) leave at once: the
 * entry was found in the hash by the answer.
 */
SEC("netfilter")
int nf_last(struct bpf_nf_ctx *ctx)
{
	const struct nf_hook_state *state = ctx->state;
	struct sk_buff *skb = ctx->skb;
	__u64 nfct = skb->_nfct;
	const struct nf_conn *ct = (void *)(nfct & NFCT_PTRMASK);
	__u32 info = nfct & NFCT_INFOMASK, cpu, netns;
	struct st_slot *s;
	struct ct_cpu *c;

	if (!nfct) {
		s = st_find(skb_key(skb));
		if (s)
			st_free(s);
		return NF_ACCEPT;
	}
	if (!ct || (info != IP_CT_NEW && info != IP_CT_RELATED))
		return NF_ACCEPT;
	if (BPF_CORE_READ(ct, status) & (IPS_CONFIRMED | IPS_TEMPLATE))
		return NF_ACCEPT;
	if (in_vrf_postrouting(state))
		return NF_ACCEPT;
	c = cpu_state(&cpu);
	if (!c)
		return NF_ACCEPT;
	netns = state->net->ns.inum;
	st_set(skb, state, ST_LAST, (__u64)ct, 0);
	count(cpu, netns, CNT(new));
	emit_ct(c, cpu, K_NEW, 0, 0, bpf_ktime_get_ns(), ct, netns, skb, false, true);
	return NF_ACCEPT;
}

/* A packet without an entry was lost: conntrack refused it, or it was invalid. */
static __always_inline int lost_untracked(struct sk_buff *skb, struct st_slot *s, __u64 location, __u32 kreason)
{
	struct st_slot was = *s;
	struct net_device *dev = skb->dev;
	struct net *net = (void *)was.ptr;
	struct ct_tuple t = {};
	struct ct_cpu *c;
	__u32 cpu, netns;
	struct out o;
	__u8 reason = R_LOOKUP_UNKNOWN;

	st_free(s);
	/* a stage-4 place has an entry; an old one belonged to another packet */
	if (was.stage == ST_LAST || st_stale(&was, bpf_jiffies64()) || !reason_is_netfilter(kreason))
		return 0;
	if (dev && dev->nd_net.net != net)
		return 0; /* crossed into another namespace and died there */
	if (was.stage == ST_INVALID) {
		if (was.len != skb_len(skb) || !conntrack_active(was.ptr, was.hook))
			return 0;
		reason = R_RULESET_INVALID;
	} else if (within(location, ksyms.nft_chain)) {
		return 0; /* a chain at a priority between ours */
	}
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	netns = BPF_CORE_READ(net, ns.inum);
	count(cpu, netns, CNT(reason) + reason);
	pkt_tuple(&t, skb, true);
	if (cfg_filter.on && !filter_passes(K_DROP, reason, netns, was.zone, &t)) {
		__sync_fetch_and_add(&c->filtered, 1);
		return 0;
	}
	if (!out_open(&o, c, cpu, true))
		return 0;
	__builtin_memset((char *)o.r + 4, 0, sizeof(*o.r) - 4);
	o.r->orig = t;
	o.r->zone = was.zone;
	rec_head(o.r, K_DROP, reason, bpf_ktime_get_ns(), 0, netns, RF_EXT);
	if (was.stage == ST_PRE)
		o.r->hook = (was.hook & 7) + 1;
	rec_ifaces(o.r, skb, true);
	o.x->location = location;
	o.x->kfree_reason = kreason;
	out_close(&o);
	return 0;
}

/*
 * Which record tells the loss of a first packet. A filter that wants new
 * entries only still has to learn that this one was none.
 */
static __always_inline __u8 loss_kind(struct ct_cpu *c, const struct nf_conn *ct, __u8 reason, __u32 netns, bool last)
{
	if (ct_passes(c, K_DROP, reason, netns, ct))
		return K_DROP;
	return last && ct_passes(c, K_NEW, 0, netns, ct) ? K_CANCEL : 0;
}

/*
 * skb:kfree_skb: a packet is freed and that is a loss. Any context; skipped by
 * the kernel when it interrupts itself, which is counted (recursion).
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(nf_kfree, struct sk_buff *skb, void *loc, __u32 kreason)
{
	__u64 nfct = skb->_nfct, location = (__u64)loc;
	const struct nf_conn *ct = (void *)(nfct & NFCT_PTRMASK);
	struct st_slot *s = st_find(skb_key(skb));
	__u8 reason = R_CONFIRM_UNKNOWN, kind;
	bool last = false;
	struct ct_cpu *c;
	__u32 cpu, netns;
	__u64 status;
	struct out o;

	if (!nfct)
		return s ? lost_untracked(skb, s, location, kreason) : 0;
	if (s) {
		last = s->stage == ST_LAST && s->ptr == (__u64)ct;
		st_free(s);
	}
	if (!ct || (nfct & NFCT_INFOMASK) >= IP_CT_IS_REPLY)
		return 0; /* untracked; or made by the kernel as an answer to a first packet */
	status = BPF_CORE_READ(ct, status);
	if ((status & IPS_TEMPLATE) || ct_was_hashed(ct))
		return 0;
	netns = ct_netns(ct);
	if (!last) {
		if (!bpf_map_lookup_elem(&linked, &netns))
			return 0;
		reason = loss_reason(ct, location, kreason);
	} else if (status & IPS_SRC_NAT) {
		reason = R_NAT_EXHAUSTED; /* likely: its translated tuple was taken */
	}
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	count(cpu, netns, CNT(reason) + reason);
	kind = loss_kind(c, ct, reason, netns, last);
	if (!kind || !out_open(&o, c, cpu, true))
		return 0;
	ct_copy(o.r, ct);
	rec_head(o.r, kind, reason, bpf_ktime_get_ns(), (__u64)ct, netns, RF_EXT);
	rec_ifaces(o.r, skb, true);
	o.r->mark = ct_mark(ct);
	o.x->location = location;
	o.x->kfree_reason = kreason;
	out_close(&o);
	return 0;
}
