/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What each hook does, once, for both kinds of programs: `typed` says that
 * pointers of the context may be dereferenced (fentry, fexit, tp_btf) and that
 * programs may interrupt each other; kprobes do neither. Always a constant.
 */
#ifndef CTSIGHT_HOOKS_H
#define CTSIGHT_HOOKS_H

#define IS_ERR(p) ((unsigned long)(p) > -4096UL)

enum {
	SCOPE_GC = 1,	  /* gc_worker */
	SCOPE_EDROP = 2,  /* early_drop */
	SCOPE_ITER = 3,	  /* nf_ct_iterate_cleanup */
	SCOPE_DELETE = 4, /* ctnetlink_del_conntrack */
	SCOPE_DUMP = 5,	  /* ctnetlink_dump_table, ct_seq_show */
	SCOPE_KILL = 6,	  /* nf_ct_kill_acct */
};

#ifdef LEGACY
static __always_inline struct scope *scope_find(__u64 key, struct ct_cpu *c)
{
	return bpf_map_lookup_elem(&scopes, &key);
}

static __always_inline void scope_enter(__u64 key, struct scope *s, struct ct_cpu *c)
{
	if (!bpf_map_update_elem(&scopes, &key, s, BPF_NOEXIST))
		__sync_fetch_and_add(&pending.scope, 1);
	else if (bpf_map_update_elem(&scopes, &key, s, BPF_ANY))
		__sync_fetch_and_add(&c->stash_fail, 1);
}

static __always_inline void scope_leave(__u64 key, struct ct_cpu *c)
{
	if (!bpf_map_delete_elem(&scopes, &key))
		__sync_fetch_and_add(&pending.scope, -1);
}
#else
static __always_inline struct scope_set *scope_set(__u64 key)
{
	__u32 i = (key * 0x9e3779b97f4a7c15ULL) >> (64 - SCOPE_BITS);

	return bpf_map_lookup_elem(&scopes, &i);
}

/* This context's scope. */
static __always_inline struct scope *scope_find(__u64 key, struct ct_cpu *c)
{
	struct scope_set *set = scope_set(key);
	__u32 k;

	if (!set)
		return NULL;
#pragma unroll
	for (k = 0; k < SCOPE_WAYS; k++)
		if (*(volatile __u64 *)&set->way[k].key == key)
			break;
	if (k == SCOPE_WAYS)
		return NULL;
	return &set->way[(k + c->zero) & (SCOPE_WAYS - 1)];
}

/* Only the context itself writes to its scope, so only taking a place needs care. */
static __always_inline void scope_enter(__u64 key, struct scope *s, struct ct_cpu *c)
{
	struct scope *t = scope_find(key, c);
	struct scope_set *set;
	__u32 k;

	s->key = key;
	if (t) {
		*t = *s;
		return;
	}
	set = scope_set(key);
	if (!set)
		return;
#pragma unroll
	for (k = 0; k < SCOPE_WAYS; k++) {
		t = &set->way[k];
		if (!*(volatile __u64 *)&t->key && !__sync_val_compare_and_swap(&t->key, 0, key)) {
			*t = *s;
			__sync_fetch_and_add(&pending.scope, 1);
			return;
		}
	}
	__sync_fetch_and_add(&c->stash_fail, 1);
}

static __always_inline void scope_leave(__u64 key, struct ct_cpu *c)
{
	struct scope *s = scope_find(key, c);

	if (!s)
		return;
	*(volatile __u64 *)&s->key = 0;
	__sync_fetch_and_add(&pending.scope, -1);
}
#endif

/* Notes who is current, once for all that the scope will destroy. */
static __always_inline void scope_task(struct scope *s)
{
	s->pid = bpf_get_current_pid_tgid() >> 32;
	s->cgroup = bpf_get_current_cgroup_id();
	comm_read(s->comm);
}

/* ext_task() for what happens inside the scope. */
static __always_inline void scope_ext(struct ct_ext *x, const struct scope *s)
{
	x->pid = s->pid;
	x->cgroup = s->cgroup;
	__builtin_memcpy(x->comm, s->comm, sizeof(x->comm));
}

/* Opens a scope that needs no more than its type and cause. */
static __always_inline int on_scope_entry(__u32 type, __u32 cause)
{
	struct scope s = {.type = type, .cause = cause};
	struct ct_cpu *c;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	if (type == SCOPE_DELETE || type == SCOPE_DUMP || cause == C_USER_FLUSH)
		scope_task(&s); /* see DESTROY_TASK */
	scope_enter(ctx_key(c, cpu), &s, c);
	return 0;
}

static __always_inline int on_scope_exit(void)
{
	struct ct_cpu *c;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (c)
		scope_leave(ctx_key(c, cpu), c);
	return 0;
}

/* Writes the head of a record whose tuples are in place. */
static __always_inline void rec_head(struct ct_rec *r, __u8 kind, __u8 code, __u64 ts, __u64 ptr, __u32 netns,
				     __u8 flags)
{
	r->kind = kind;
	r->code = code;
	r->ts = ts;
	r->ptr = ptr;
	r->netns = netns;
	/* volatile: or they become one store per byte */
	*(volatile __u32 *)&r->flags = flags; /* and tcp_state, hook, k */
	*(volatile __u32 *)&r->aux[0] = 0;
	*(volatile __u32 *)&r->aux[1] = 0;
}

/* Where the packet came in and is going out. */
static __always_inline void rec_ifaces(struct ct_rec *r, struct sk_buff *skb, bool typed)
{
	struct net_device *dev = RD(typed, skb, dev);

	r->aux[0] = RD(typed, skb, skb_iif);
	if (dev)
		r->aux[1] = RD(typed, dev, ifindex);
}

/* ---- insert -------------------------------------------------------- */

static __always_inline __u32 recent_index(__u32 cpu, __u32 what, __u64 ptr)
{
	return (cpu * 2 + what) * RECENT + ((ptr >> 8) & (RECENT - 1));
}

static __always_inline void remember(__u32 cpu, __u32 what, __u64 ptr, __u64 ts)
{
	__u32 i = recent_index(cpu, what, ptr);
	struct recent *t = bpf_map_lookup_elem(&recents, &i);

	if (!t)
		return;
	t->ptr = ptr;
	t->ts = ts;
}

/* When ptr was last remembered on any CPU; 0: not, or long ago. */
__noinline __u64 recall(__u64 ptr, __u32 what)
{
	struct recent *t;
	__u64 best = 0;
	__u32 cpu, i;

	for (cpu = 0; cpu < 1024 && cpu < cfg_ncpu; cpu++) {
		i = recent_index(cpu, what, ptr);
		t = bpf_map_lookup_elem(&recents, &i);
		if (t && t->ptr == ptr && t->ts > best)
			best = t->ts;
	}
	return best;
}

/* An open record: room in the ring or a scratch, not yet visible to the reader. */
struct out {
	struct ct_rec *r;
	struct ct_ext *x; /* the second half, if asked for */
	__u64 pos;
	__u32 cpu;
	__u32 to; /* what shed() says; 0 if it was not asked */
};

static __always_inline bool out_open(struct out *o, struct ct_cpu *c, __u32 cpu, bool ext)
{
	__u64 unread = ring_unread(c);
	struct scratch *s;
	__u8 *ring;
	__u32 i;

	__sync_fetch_and_add(&c->seen, 1);
	o->cpu = cpu;
	o->to = 0;
	o->pos = 0;
	o->x = NULL;
	if (sheds() && unread >= cfg_ring_slots / 16 * SHED_FROM) {
		o->to = shed(cpu, unread / (cfg_ring_slots / 16));
		if (o->to < SHED_WHOLE) {
			i = cpu * SCRATCHES + o->to - 1;
			s = bpf_map_lookup_elem(&scratches, &i);
			if (!s)
				return false;
			o->r = &s->rec;
			if (ext) {
				o->x = &s->ext;
				ext_init(o->x);
			}
			return true;
		}
		if (o->to == SHED_NOWHERE) {
			__sync_fetch_and_add(&c->lost, 1);
			return false;
		}
	}
	ring = bpf_map_lookup_elem(&rings, &cpu);
	if (!ring || !ring_reserve(c, cpu, ext ? 2 : 1, unread, &o->pos))
		return false;
	o->r = ring_slot(ring, o->pos);
	if (ext) {
		o->x = (struct ct_ext *)ring_slot(ring, o->pos + 1);
		ext_init(o->x);
	}
	return true;
}

static __always_inline void out_close(struct out *o)
{
	if (sheds() && o->to) {
		if (o->to < SHED_WHOLE) {
			sum_up(o->cpu, o->to);
			return;
		}
		o->r->k = o->to - SHED_WHOLE;
	}
	if (o->x)
		ring_commit((struct ct_rec *)o->x, o->pos + 1);
	ring_commit(o->r, o->pos);
}

/*
 * A record of an entry, from its image if there is one; with task, current is
 * named as the cause.
 */
static __always_inline void emit_img(struct ct_cpu *c, __u32 cpu, __u8 kind, __u8 code, __u8 flags, __u64 ts,
				     const struct nf_conn *ct, const struct ct_img *m, __u32 netns, __u32 iif, __u32 oif,
				     bool task)
{
	struct out o;

	if (!ct_passes(c, kind, code, netns, ct))
		return;
	if (!out_open(&o, c, cpu, task))
		return;
	if (m) {
		img_copy(o.r, m);
	} else {
		ct_copy(o.r, ct);
		o.r->mark = ct_mark(ct);
	}
	rec_head(o.r, kind, code, ts, (__u64)ct, netns, flags | (task ? RF_EXT | RF_TASK : 0));
	o.r->aux[0] = iif;
	o.r->aux[1] = oif;
	if (o.x) /* the verifier of 6.1 does not connect it with task */
		ext_task(o.x);
	out_close(&o);
}

static __always_inline void emit_ct(struct ct_cpu *c, __u32 cpu, __u8 kind, __u8 code, __u8 flags, __u64 ts,
				    const struct nf_conn *ct, __u32 netns, struct sk_buff *skb, bool task, bool typed)
{
	struct net_device *dev;
	__u32 iif = 0, oif = 0;

	if (skb) {
		iif = RD(typed, skb, skb_iif);
		dev = RD(typed, skb, dev);
		if (dev)
			oif = RD(typed, dev, ifindex);
	}
	emit_img(c, cpu, kind, code, flags, ts, ct, NULL, netns, iif, oif, task);
}

/* A record of a packet without an entry, from its headers. */
static __always_inline void emit_pkt(struct ct_cpu *c, __u32 cpu, __u8 kind, __u8 code, __u8 hook, __u32 netns,
				     const struct ct_tuple *t, struct sk_buff *skb, __u64 location, __u32 kreason,
				     bool typed)
{
	struct out o;

	if (cfg_filter.on && !filter_passes(kind, code, netns, 0, t)) {
		__sync_fetch_and_add(&c->filtered, 1);
		return;
	}
	if (!out_open(&o, c, cpu, true))
		return;
	__builtin_memset((char *)o.r + 4, 0, sizeof(*o.r) - 4);
	o.r->orig = *t;
	rec_head(o.r, kind, code, bpf_ktime_get_ns(), 0, netns, RF_EXT);
	o.r->hook = hook;
	rec_ifaces(o.r, skb, typed);
	o.x->location = location;
	o.x->kfree_reason = kreason;
	if (kind == K_INVALID && pkt_tcp_flags(&o.x->tcp_flags, t, skb, typed))
		o.r->flags = RF_EXT | RF_TCP_FLAGS;
	out_close(&o);
}

/* The packet's loss is told; kfree_skb must not tell it again. */
static __always_inline void loss_told(__u64 skb, __u64 ct)
{
	bpf_map_update_elem(&losses, &skb, &ct, BPF_ANY);
	pending.lost = 1;
}

/* A clash has ended: the stash holds the loser as it was before the merge. */
static __always_inline void clash_end(struct ct_cpu *c, __u32 cpu, struct sk_buff *skb, struct clash *cl, bool accepted,
				      bool merged, bool typed)
{
	__u32 reason = accepted ? merged ? R_CLASH_MERGED : R_CLASH_NAT_REPLY_ONLY : cl->reason;
	__u8 kind = accepted ? K_NOTE : K_DROP;
	__u64 key = (__u64)skb;
	struct out o;

	if (reason >= R_MAX)
		return;
	count(cpu, cl->netns, CNT(reason) + reason);
	if (!accepted)
		loss_told(key, cl->loser);
	if (cfg_filter.on && !filter_passes(kind, reason, cl->netns, cl->zone, &cl->orig)) {
		__sync_fetch_and_add(&c->filtered, 1);
	} else if (out_open(&o, c, cpu, true)) {
		o.r->orig = cl->orig;
		o.r->reply = cl->reply;
		o.r->zone = cl->zone;
		o.r->status = cl->status;
		o.r->mark = cl->mark;
		rec_head(o.r, kind, reason, bpf_ktime_get_ns(), cl->loser, cl->netns,
			 RF_EXT | (accepted && !merged ? RF_REPLY_ONLY : 0));
		rec_ifaces(o.r, skb, typed);
		o.x->other = cl->winner;
		out_close(&o);
	}
	if (!bpf_map_delete_elem(&clashes, &key))
		__sync_fetch_and_add(&pending.clash, -1);
}

/* Why __nf_conntrack_confirm() refused, when no clash did (rows B6 to B9). */
static __always_inline __u8 confirm_reason(const struct nf_conn *ct, bool *post)
{
	bool hashed = ct_was_hashed(ct);
	__u64 status = BPF_CORE_READ(ct, status);

	*post = hashed && (status & IPS_DYING);
	if (*post)
		return R_EXT_STALE;
	if (hashed)
		return R_DOUBLE_CONFIRM;
	if (status & IPS_DYING)
		return R_CT_DYING;
	if (ext_is_stale(ct, ksyms.ext_genid))
		return R_EXT_STALE;
	return R_CHAIN_TOO_LONG;
}

/* A packet's entry went into the table; m is its image or NULL, a constant. */
static __always_inline void on_insert(struct ct_cpu *c, __u32 cpu, struct sk_buff *skb, const struct nf_conn *ct,
				      const struct ct_img *m, bool typed)
{
	struct net_device *dev = RD(typed, skb, dev); /* where it goes out, or came in to stay */
	__u32 iif = RD(typed, skb, skb_iif);
	__u32 netns = m ? img_netns(m, dev, typed) : ct_netns(ct);
	__u32 oif = RD(typed, dev, ifindex); /* 0 without a device */
	__u64 ts = bpf_ktime_get_ns();

	count_often(cpu, netns, CNT(new));
	if (pending.nat) /* who was first matters once NAT has chosen a tuple */
		remember(cpu, INSERTED, (__u64)ct, ts);
	if (!iif && !in_softirq(c, cpu))
		emit_img(c, cpu, K_NEW, 0, 0, ts, ct, m, netns, iif, oif, true);
	else
		emit_img(c, cpu, K_NEW, 0, 0, ts, ct, m, netns, iif, oif, false);
}

static __always_inline int on_confirm(struct sk_buff *skb, int ret, bool typed)
{
	__u64 nfct = RD(typed, skb, _nfct);
	const struct nf_conn *ct = (void *)(nfct & NFCT_PTRMASK);
	struct ct_img img;
	struct ct_cpu *c;
	__u32 cpu, netns;
	__u8 reason;
	bool post;

	if ((nfct & NFCT_INFOMASK) >= IP_CT_IS_REPLY)
		return 0;
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	if (pending.clash > 0) {
		__u64 key = (__u64)skb;
		struct clash *cl = bpf_map_lookup_elem(&clashes, &key);

		if (cl) {
			clash_end(c, cpu, skb, cl, ret == NF_ACCEPT, cl->loser != (__u64)ct, typed);
			return 0;
		}
	}
	if (ret == NF_ACCEPT) {
		if (img_fits()) {
			img_read(&img, ct);
			on_insert(c, cpu, skb, ct, &img, typed);
		} else {
			on_insert(c, cpu, skb, ct, NULL, typed);
		}
		return 0;
	}
	netns = ct_netns(ct);
	reason = confirm_reason(ct, &post);
	if (post)
		count(cpu, netns, CNT(ext_post));
	else
		count(cpu, netns, CNT(reason) + reason);
	emit_ct(c, cpu, K_DROP, reason, 0, bpf_ktime_get_ns(), ct, netns, skb, false, typed);
	loss_told((__u64)skb, (__u64)ct);
	return 0;
}

/* nf_ct_resolve_clash() begins: h is the winner's tuple, skb holds the loser. */
static __always_inline int on_clash(struct sk_buff *skb, const struct nf_conntrack_tuple_hash *h, bool typed)
{
	__u64 key = (__u64)skb, nat_at, won_at;
	const struct nf_conn *loser = (void *)(RD(typed, skb, _nfct) & NFCT_PTRMASK);
	const struct nf_conn *winner;
	struct ct_tuple wo = {}, wr = {};
	struct clash cl = {};

	bpf_probe_read_kernel(&wo, sizeof(wo), __builtin_preserve_access_index(&h->tuple));
	winner = (void *)h - bpf_core_field_offset(struct nf_conn, tuplehash) -
		 (wo.dir ? bpf_core_type_size(struct nf_conntrack_tuple_hash) : 0);
	ct_tuple_read(&wo, winner, 0);
	ct_tuple_read(&wr, winner, 1);
	ct_tuple_read(&cl.orig, loser, 0);
	ct_tuple_read(&cl.reply, loser, 1);
	cl.netns = ct_netns(loser);
	cl.zone = ct_zone(loser);
	cl.status = BPF_CORE_READ(loser, status);
	cl.mark = ct_mark(loser);
	cl.loser = (__u64)loser;
	cl.winner = (__u64)winner;
	if (tuple_equal(&wo, &cl.orig)) {
		cl.reason = R_CLASH_SAME_FLOW;
	} else if (tuple_equal(&wr, &cl.orig) &&
		   (tuple_equal(&wo, &cl.reply) || !(BPF_CORE_READ(winner, status) & IPS_NAT_MASK))) {
		/* NAT, if it is on, moves the loser's reply out of the way of the winner */
		cl.reason = R_CLASH_REVERSE;
	} else if (tuple_equal(&wr, &cl.reply) || tuple_equal(&wo, &cl.reply)) {
		/* Was the tuple already taken when NAT chose it? */
		nat_at = recall((__u64)loser, NATTED);
		won_at = recall((__u64)winner, INSERTED);
		cl.reason = nat_at && won_at > nat_at ? R_NAT_RACE : R_NAT_EXHAUSTED;
	} else {
		cl.reason = R_CLASH_OTHER;
	}
	if (!bpf_map_update_elem(&clashes, &key, &cl, BPF_NOEXIST))
		__sync_fetch_and_add(&pending.clash, 1);
	else
		bpf_map_update_elem(&clashes, &key, &cl, BPF_ANY);
	return 0;
}

/* ctnetlink or a BPF program inserts: nf_conntrack_hash_check_insert(). */
static __always_inline int on_check_insert(const struct nf_conn *ct, int ret)
{
	struct ct_cpu *c;
	__u32 cpu, netns;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	netns = ct_netns(ct);
	if (ret == 0) {
		count(cpu, netns, CNT(new_user));
		if (in_softirq(c, cpu))
			emit_ct(c, cpu, K_NEW, 0, RF_USER, bpf_ktime_get_ns(), ct, netns, NULL, false, false);
		else
			emit_ct(c, cpu, K_NEW, 0, RF_USER, bpf_ktime_get_ns(), ct, netns, NULL, true, false);
	} else if (ret == -28 /* ENOSPC */) {
		count(cpu, netns, CNT(chain_user));
	}
	return 0;
}

/* ---- refusal ------------------------------------------------------- */

/* A record from the arguments of __nf_conntrack_alloc(): there is no entry. */
static __always_inline void emit_alloc(struct ct_cpu *c, __u32 cpu, __u8 kind, __u8 code, __u32 netns,
				       const struct nf_conntrack_zone *zone, const void *orig, __u32 aux0, __u32 aux1)
{
	struct ct_tuple t = {};
	struct out o;
	__u16 z = 0;

	bpf_probe_read_kernel(&t, sizeof(t), orig);
	if (BPF_CORE_READ(zone, dir) & 1)
		z = BPF_CORE_READ(zone, id);
	if (cfg_filter.on && kind != K_EVICTOR && !filter_passes(kind, code, netns, z, &t)) {
		__sync_fetch_and_add(&c->filtered, 1);
		return;
	}
	if (!out_open(&o, c, cpu, false))
		return;
	__builtin_memset((char *)o.r + 4, 0, sizeof(*o.r) - 4);
	o.r->orig = t;
	o.r->zone = z;
	rec_head(o.r, kind, code, bpf_ktime_get_ns(), 0, netns, 0);
	o.r->aux[0] = aux0;
	o.r->aux[1] = aux1;
	out_close(&o);
}

/* Tells one packet's early_drop() from another's. */
static __always_inline __u64 edrop_id(__u32 netns, __u32 hash)
{
	return (__u64)netns << 32 | hash;
}

static __always_inline void edrop_done(__u64 key)
{
	if (!bpf_map_delete_elem(&edrops, &key))
		__sync_fetch_and_add(&pending.edrop, -1);
}

/*
 * __nf_conntrack_alloc() returned. Success is the common case and costs two
 * comparisons; hash 0 is a request of user space or BPF, not a packet.
 */
static __always_inline int on_alloc(__u64 ret, const struct net *net, const struct nf_conntrack_zone *zone,
				    const void *orig, __u32 hash, bool typed)
{
	struct scope *d = NULL;
	struct ct_cpu *c;
	__u32 cpu, netns, evicted = 0, link = 0;
	__u64 key;
	__u8 reason = R_CT_NOMEM;

	if (!IS_ERR(ret) && pending.edrop <= 0)
		return 0;
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	netns = RD(typed, net, ns.inum);
	key = ctx_key(c, cpu);
	if (pending.edrop > 0)
		d = bpf_map_lookup_elem(&edrops, &key);
	if (d) {
		evicted = d->evicted;
		link = d->link;
		if (typed && d->ptr != edrop_id(netns, hash)) { /* of a packet whose return was skipped */
			if (evicted)
				count(cpu, d->ptr >> 32, CNT(evict_scope));
			evicted = 0;
		} else if (!evicted) {
			reason = R_TABLE_FULL;
		}
		edrop_done(key);
	}
	if (evicted) {
		count(cpu, netns, CNT(evict_scope));
		emit_alloc(c, cpu, K_EVICTOR, 0, netns, zone, orig, evicted, link);
	}
	if (!IS_ERR(ret))
		return 0;
	if (!hash) {
		count(cpu, netns, CNT(reason) + R_CREATE_REFUSED);
		emit_alloc(c, cpu, K_NOTE, R_CREATE_REFUSED, netns, zone, orig, 0, 0);
		return 0;
	}
	count(cpu, netns, CNT(reason) + reason);
	emit_alloc(c, cpu, K_DROP, reason, netns, zone, orig, 0, 0);
	if (cfg_invalid) { /* nf_conntrack_in shall not tell it again */
		struct mark m = {.reason = reason};

		bpf_map_update_elem(&marks, &key, &m, BPF_ANY);
	}
	return 0;
}

static __always_inline int on_early_drop_entry(void)
{
	struct scope s = {.type = SCOPE_EDROP};
	struct ct_cpu *c;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	s.link = bpf_get_prandom_u32() | 1;
	scope_enter(ctx_key(c, cpu), &s, c);
	return 0;
}

/*
 * early_drop() is a bool: only the low byte of the return counts. Its arguments
 * tell on_alloc(), or on_kfree_skb() instead of it, what this was about.
 */
static __always_inline int on_early_drop_exit(const struct net *net, __u32 hash, __u64 ret, bool typed)
{
	struct scope d = {.type = SCOPE_EDROP}, *s;
	struct ct_cpu *c;
	__u64 key;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	key = ctx_key(c, cpu);
	s = scope_find(key, c);
	if (typed) {
		if (is_second() && !s) /* the first has left it */
			return 0;
		d.ptr = edrop_id(net->ns.inum, hash);
	}
	if (s) {
		d.link = s->link;
		d.evicted = s->evicted;
		scope_leave(key, c);
	}
	if (!(ret & 0xff))
		d.evicted = 0;
	else if (!d.evicted)
		d.evicted = 1;
	if (!bpf_map_update_elem(&edrops, &key, &d, BPF_NOEXIST))
		__sync_fetch_and_add(&pending.edrop, 1);
	else if (bpf_map_update_elem(&edrops, &key, &d, BPF_ANY))
		__sync_fetch_and_add(&c->stash_fail, 1);
	return 0;
}

/* ---- destroy ------------------------------------------------------- */

/* The cause that a text address stands for, if any. Verified once. */
__noinline __u32 range_cause(__u64 addr)
{
	int i;

	for (i = 0; i < MAX_RANGES; i++)
		if (addr >= ksyms.range[i].start && addr < ksyms.range[i].end)
			return ksyms.range[i].cause;
	return C_UNKNOWN;
}

/*
 * The caller of an unusual nf_ct_delete(), from the stack: the first frame
 * that lies in one of the ranges of kallsyms. Rare: every usual cause is
 * known from the timeout or from a scope.
 */
static __always_inline __u32 caller_cause(void *ctx)
{
	__u64 frames[12] = {};
	__u32 cause = C_UNKNOWN;
	int i;

	if (bpf_get_stack(ctx, frames, sizeof(frames), 0) <= 0)
		return C_UNKNOWN;
	for (i = 0; i < 12 && !cause; i++)
		cause = range_cause(frames[i]);
	return cause;
}

/* Whether a function, given as its text range, is on the stack. */
static __always_inline bool on_stack(void *ctx, volatile __u64 *range)
{
	__u64 frames[12] = {};
	int i;

	if (bpf_get_stack(ctx, frames, sizeof(frames), 0) <= 0)
		return false;
	for (i = 0; i < 12; i++)
		if (frames[i] >= range[0] && frames[i] < range[1])
			return true;
	return false;
}

/*
 * Whether the kernel destroys an entry because it has expired. It looked at
 * the clock a moment ago: when the entry expired since the tick before last,
 * only the caller, nf_ct_gc_expired(), tells.
 */
static __always_inline bool has_expired(void *ctx, __s32 expires)
{
	if (expires > 0)
		return false;
	return expires < -2 || !ksyms.gc_expired[0] || on_stack(ctx, ksyms.gc_expired);
}

/* The cause an nf_ct_iterate_cleanup() stands for, from its iterator. */
static __always_inline __u32 iter_cause(__u64 iter, __u64 data)
{
	if (!iter)
		return C_UNKNOWN;
	if (iter == ksyms.iter_net_only) /* 5.10: the real one is in struct iter_data */
		bpf_probe_read_kernel(&iter, sizeof(iter), (void *)data);
	if (iter == ksyms.flush)
		return C_USER_FLUSH;
	if (iter == ksyms.kill_all)
		return C_NETNS_EXIT;
	if (iter == ksyms.device_cmp)
		return C_MASQ_DEV_DOWN;
	if (iter == ksyms.inet_cmp)
		return C_MASQ_ADDR_DEL;
	if (iter == ksyms.proto_clean)
		return C_NAT_UNLOAD;
	return C_UNKNOWN;
}

#define DESTROY_TASK (1 << 8) /* in the result of scope_cause: current did it */

/* The cause of a destroy inside a scope. */
static __always_inline __u32 scope_cause(struct scope *s, __u64 ct, bool expired)
{
	switch (s->type) {
	case SCOPE_GC:
		return expired ? C_TIMEOUT_GC : C_EARLY_DROP_GC;
	case SCOPE_EDROP:
		if (expired)
			return C_TIMEOUT_LOOKUP;
		__sync_fetch_and_add(&s->evicted, 1);
		return C_EARLY_DROP;
	case SCOPE_ITER:
		return s->cause == C_USER_FLUSH ? C_USER_FLUSH | DESTROY_TASK : s->cause;
	case SCOPE_DELETE:
		return (expired ? C_TIMEOUT_LOOKUP : C_USER_DELETE) | DESTROY_TASK;
	case SCOPE_DUMP:
		return C_TIMEOUT_DUMP | DESTROY_TASK; /* listings destroy nothing else */
	case SCOPE_KILL:
		if (s->ptr == ct)
			return s->cause;
	}
	return expired ? C_TIMEOUT_LOOKUP : C_UNKNOWN;
}

/* The record of a destroy; by is the scope whose task did it, or NULL, a constant. */
static __always_inline void emit_destroy(struct ct_cpu *c, __u32 cpu, __u32 cause, const struct nf_conn *ct,
					 __u32 netns, __s32 expires, __u32 link, const struct scope *by, bool typed)
{
	struct out o;

	if (!out_open(&o, c, cpu, by != NULL))
		return;
	ct_copy(o.r, ct);
	rec_head(o.r, K_DESTROY, cause, bpf_ktime_get_ns(), (__u64)ct, netns, by ? RF_EXT | RF_TASK : 0);
	if (o.r->orig.proto == IPPROTO_TCP)
		o.r->tcp_state = RD(typed, ct, proto.tcp.state);
	o.r->aux[0] = expires;
	o.r->aux[1] = link;
	o.r->mark = bpf_core_field_exists(ct->mark) ? RD(typed, ct, mark) : 0;
	if (by)
		scope_ext(o.x, by);
	out_close(&o);
}

/*
 * nf_ct_helper_destroy(): called once for every entry taken out of the hash,
 * by both exits of nf_ct_delete(), before the entry is unlinked.
 */
static __always_inline int on_destroy(void *ctx, const struct nf_conn *ct, bool typed)
{
	__s32 expires = (__s32)(RD(typed, ct, timeout) - (__u32)bpf_jiffies64());
	bool expired = has_expired(ctx, expires);
	__u32 cause = expired ? C_TIMEOUT_LOOKUP : C_UNKNOWN;
	struct scope *s = NULL;
	struct ct_cpu *c;
	__u32 cpu, netns, link = 0;
	bool task = false;
	__u64 key;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	if (pending.scope > 0) {
		key = ctx_key(c, cpu);
		s = scope_find(key, c);
	}
	/* A PPTP connection that goes takes its calls along, inside its own scope. */
	if (s && RD(typed, ct, master) && caller_cause(ctx) == C_PPTP) {
		cause = C_PPTP;
		s = NULL;
	}
	if (s) {
		cause = scope_cause(s, (__u64)ct, expired);
		task = cause & DESTROY_TASK;
		cause &= ~DESTROY_TASK;
		if (cause == C_EARLY_DROP)
			link = s->link;
	}
	if (cause == C_UNKNOWN)
		cause = caller_cause(ctx);
	cause += c->zero;
	if (cause >= C_MAX)
		cause = C_UNKNOWN;
	netns = typed ? ct->ct_net.net->ns.inum : ct_netns(ct);
	count_often(cpu, netns, CNT(cause) + cause);
	if (!ct_passes(c, K_DESTROY, cause, netns, ct))
		return 0;
	if (s && task)
		emit_destroy(c, cpu, cause, ct, netns, expires, link, s, typed);
	else
		emit_destroy(c, cpu, cause, ct, netns, expires, link, NULL, typed);
	return 0;
}

static __always_inline int on_iterate_entry(__u64 iter, __u64 data)
{
	return on_scope_entry(SCOPE_ITER, iter_cause(iter, data));
}

/*
 * nf_ct_kill_acct(): the TCP tracker on a RST without a reply, the DCCP
 * tracker on a reset, or NAT when a masqueraded flow leaves elsewhere. The
 * first two come before NAT, so the packet itself tells which it is.
 */
static __always_inline int on_kill_acct(const struct nf_conn *ct, struct sk_buff *skb, bool typed)
{
	struct scope s = {.type = SCOPE_KILL, .ptr = (__u64)ct};
	struct mark m = {.skb = (__u64)skb, .ct = (__u64)ct, .reason = R_NAT_OIF_CHANGED};
	struct ct_tuple t = {};
	struct ct_cpu *c;
	__u8 flags = 0;
	__u64 key;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	ct_tuple_read(&t, ct, 0);
	if (t.proto == IPPROTO_TCP && !(BPF_CORE_READ(ct, status) & IPS_SEEN_REPLY)) {
		bpf_probe_read_kernel(&flags, 1,
				      RD(typed, skb, head) + RD(typed, skb, transport_header) + 13);
		if (flags & 4)
			s.cause = C_TCP_RST_UNREPLIED;
	} else if (t.proto == IPPROTO_DCCP) {
		s.cause = C_DCCP_RESET;
	}
	key = ctx_key(c, cpu);
	if (!s.cause) {
		s.cause = C_NAT_OIF_CHANGED;
		bpf_map_update_elem(&marks, &key, &m, BPF_ANY);
		pending.mark = 1;
	}
	scope_enter(key, &s, c);
	return 0;
}

/* ---- packets lost between lookup and insert ------------------------ */

/* The packet (or the entry) in this context is about to be dropped for reason. */
static __always_inline int mark_context(__u64 skb, __u64 ct, __u32 reason, bool keep)
{
	struct mark m = {.skb = skb, .ct = ct, .reason = reason}, *was;
	struct ct_cpu *c;
	__u64 key;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	key = ctx_key(c, cpu);
	if (keep) { /* a deeper function has said more precisely why */
		was = bpf_map_lookup_elem(&marks, &key);
		if (was && (was->ct == ct || was->skb == skb))
			return 0;
	}
	bpf_map_update_elem(&marks, &key, &m, BPF_ANY);
	pending.mark = 1;
	return 0;
}

/*
 * nf_ct_expect_related_report() returned. A helper may try again after a
 * failure; what it says in the end counts.
 */
static __always_inline int on_expect(__u64 master, int ret)
{
	struct ct_cpu *c;
	struct mark *m;
	__u64 key;
	__u32 cpu;

	if (ret < 0)
		return mark_context(0, master, ret == -EMFILE ? R_EXPECT_LIMIT : R_HELPER, false);
	if (!pending.mark)
		return 0;
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	key = ctx_key(c, cpu);
	m = bpf_map_lookup_elem(&marks, &key);
	if (m && m->ct == master)
		bpf_map_delete_elem(&marks, &key);
	return 0;
}

/* nf_nat_setup_info(): when, and whether it failed. */
static __always_inline int on_nat_setup(const struct nf_conn *ct, __u32 maniptype, __u32 ret)
{
	if (ret == NF_DROP)
		return mark_context(0, (__u64)ct, R_NAT_SETUP, false);
	if (!pending.nat)
		pending.nat = 1;
	if (maniptype == 0) /* NF_NAT_MANIP_SRC */
		remember(bpf_get_smp_processor_id(), NATTED, (__u64)ct, bpf_ktime_get_ns());
	return 0;
}

/* The mark of this context, if it is about this packet or this entry. */
static __always_inline __u32 take_mark(struct ct_cpu *c, __u32 cpu, __u64 skb, __u64 ct)
{
	struct mark *m;
	__u64 key;
	__u32 reason;

	if (!pending.mark)
		return 0;
	key = ctx_key(c, cpu);
	m = bpf_map_lookup_elem(&marks, &key);
	if (!m || !((m->skb && m->skb == skb) || (m->ct && m->ct == ct)))
		return 0;
	reason = m->reason;
	bpf_map_delete_elem(&marks, &key);
	return reason;
}

static __always_inline bool within(__u64 addr, __u64 *range)
{
	return addr >= range[0] && addr < range[1];
}

/* Why a packet whose entry was never inserted is freed here. */
static __always_inline __u8 loss_reason(const struct nf_conn *ct, __u64 location, __u32 reason)
{
	if (within(location, ksyms.nf_queue) && BPF_CORE_READ(ct, ct_general.use.refs.counter) > 1)
		return R_NFQUEUE_CLONE;
	if (reason_is_netfilter(reason) || within(location, ksyms.hook_slow) || within(location, ksyms.nft_chain))
		return R_RULESET_NEW;
	return R_OTHER_NEW;
}

/*
 * A packet that early_drop() found no room for, and that is freed before
 * __nf_conntrack_alloc() was seen to return: the kernel has skipped that run.
 */
static __always_inline __u32 refused_unseen(struct ct_cpu *c, __u32 cpu, __u32 *netns)
{
	struct scope *d;
	__u64 key;

	if (pending.edrop <= 0)
		return 0;
	key = ctx_key(c, cpu);
	d = bpf_map_lookup_elem(&edrops, &key);
	if (!d || d->evicted || !(__u32)d->ptr) /* hash 0: no packet, see on_alloc() */
		return 0;
	*netns = d->ptr >> 32;
	edrop_done(key);
	return R_TABLE_FULL;
}

/*
 * A packet is freed with a reason to tell. Packets of inserted entries, and
 * of no entry, leave at once unless a hook has marked them.
 */
static __always_inline int on_kfree_skb(struct sk_buff *skb, __u64 location, __u32 kreason, bool typed)
{
	__u64 nfct = RD(typed, skb, _nfct);
	const struct nf_conn *ct = (void *)(nfct & NFCT_PTRMASK);
	struct net_device *dev;
	__u64 key = (__u64)skb, *told;
	struct ct_tuple t = {};
	struct ct_cpu *c;
	__u32 cpu, reason, netns;
	struct out o;

	if (!ct && !pending.mark && !pending.invalid && pending.edrop <= 0)
		return 0;
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	reason = take_mark(c, cpu, key, (__u64)ct);
	if (!ct) {
		netns = 0;
		dev = RD(typed, skb, dev);
		if (dev) /* none on the way out of a local socket */
			netns = typed ? dev->nd_net.net->ns.inum : BPF_CORE_READ(dev, nd_net.net, ns.inum);
		if (typed && !reason && !nfct)
			reason = refused_unseen(c, cpu, &netns);
		pkt_tuple(&t, skb, typed);
		if (!reason && pending.invalid && !nfct) {
			struct invalid *v = bpf_map_lookup_elem(&invalids, &key);

			if (!v)
				return 0;
			if (tuple_equal(&v->tuple, &t) && (!netns || v->netns == netns) &&
			    (reason_is_netfilter(kreason) || within(location, ksyms.hook_slow) ||
			     within(location, ksyms.nft_chain))) {
				reason = R_RULESET_INVALID;
				netns = v->netns;
			}
			bpf_map_delete_elem(&invalids, &key);
		}
		if (!reason || reason >= R_MAX || !netns)
			return 0;
		count(cpu, netns, CNT(reason) + reason);
		emit_pkt(c, cpu, K_DROP, reason, 0, netns, &t, skb, location, kreason, typed);
		return 0;
	}
	if (BPF_CORE_READ(ct, status) & IPS_TEMPLATE)
		return 0;
	if (!reason) {
		/* the answer of REJECT carries the entry of the packet it answers */
		if (ct_was_hashed(ct) || (nfct & NFCT_INFOMASK) >= IP_CT_IS_REPLY)
			return 0;
		if (pending.lost) {
			told = bpf_map_lookup_elem(&losses, &key);
			if (told && *told == (__u64)ct) {
				bpf_map_delete_elem(&losses, &key);
				return 0;
			}
		}
		reason = loss_reason(ct, location, kreason);
	}
	if (reason >= R_MAX)
		return 0;
	netns = ct_netns(ct);
	count(cpu, netns, CNT(reason) + reason);
	if (!ct_passes(c, K_DROP, reason, netns, ct))
		return 0;
	if (!out_open(&o, c, cpu, true))
		return 0;
	ct_copy(o.r, ct);
	rec_head(o.r, K_DROP, reason, bpf_ktime_get_ns(), (__u64)ct, netns, RF_EXT);
	rec_ifaces(o.r, skb, typed);
	o.r->mark = ct_mark(ct);
	o.x->location = location;
	o.x->kfree_reason = kreason;
	out_close(&o);
	return 0;
}

/* Synproxy answered a SYN by itself: the packet is consumed, not lost. */
static __always_inline int on_synack(struct sk_buff *skb, __u32 netns, bool typed)
{
	struct ct_tuple t = {};
	struct ct_cpu *c;
	__u32 cpu;

	c = cpu_state(&cpu);
	if (!c)
		return 0;
	pkt_tuple(&t, skb, typed);
	count(cpu, netns, CNT(reason) + R_SYNPROXY_CONSUMED);
	emit_pkt(c, cpu, K_NOTE, R_SYNPROXY_CONSUMED, 0, netns, &t, skb, 0, 0, typed);
	return 0;
}

/*
 * nf_conntrack_in() returned (--invalid). Without an entry on the packet it is
 * invalid, or an ICMP error of no known flow, or was never looked at.
 */
static __always_inline int on_conntrack_in(struct sk_buff *skb, const struct nf_hook_state *state, int ret, bool typed)
{
	__u64 nfct = RD(typed, skb, _nfct), key = (__u64)skb;
	struct invalid v = {};
	struct ct_tuple t = {};
	struct net *net;
	struct ct_cpu *c;
	struct mark *m;
	__u32 cpu, netns;
	__u64 ctx;
	__u8 code = R_INVALID, type;

	if (nfct)
		return 0;
	c = cpu_state(&cpu);
	if (!c)
		return 0;
	pkt_tuple(&t, skb, typed);
	net = RD(typed, state, net);
	netns = RD(typed, net, ns.inum);
	if (ret != NF_ACCEPT) {
		ctx = ctx_key(c, cpu);
		m = bpf_map_lookup_elem(&marks, &ctx);
		if (m && !m->skb && !m->ct) { /* told by __nf_conntrack_alloc */
			bpf_map_delete_elem(&marks, &ctx);
			return 0;
		}
		/* The tracker refused, or the new entry got no room for an extension */
		code = t.proto == IPPROTO_TCP || t.proto == IPPROTO_DCCP ? R_TCP_REOPEN_RACE : R_CT_NOMEM;
		count(cpu, netns, CNT(reason) + code);
		emit_pkt(c, cpu, K_DROP, code, RD(typed, state, hook) + 1, netns, &t, skb, 0, 0, typed);
		return 0;
	}
	type = t.dport[0];
	if ((t.proto == IPPROTO_ICMP && (type == 3 || type == 4 || type == 5 || type == 11 || type == 12)) ||
	    (t.proto == IPPROTO_ICMPV6 && type < 128))
		code = R_ICMP_ERROR;
	count(cpu, netns, CNT(reason) + code);
	emit_pkt(c, cpu, K_INVALID, code, RD(typed, state, hook) + 1, netns, &t, skb, 0, 0, typed);
	v.tuple = t;
	v.netns = netns;
	bpf_map_update_elem(&invalids, &key, &v, BPF_ANY);
	pending.invalid = 1;
	return 0;
}

#endif
