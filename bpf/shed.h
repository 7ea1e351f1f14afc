/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a ring does that runs full: it sheds detail, not truth. From three
 * quarters on most records only add to a sum of their source, kept per CPU,
 * and 1 in 2^k is sent whole, with k in it; k grows with the fill. A sum whose
 * place another source needs is sent as one record. User space reads those that
 * stay (internal/probe/sums.go), so that
 *
 *	seen = delivered + summed up + lost
 *
 * holds exactly, and per source nothing but lost is missing. Only where user
 * space asks for it (cfg_sums); nflink cancels what it has told and does not.
 */
#ifndef CTSIGHT_SHED_H
#define CTSIGHT_SHED_H

#ifdef NEVER_SHED
#define sheds() false
#else
#define sheds() (cfg_sums != 0)
#endif

/* The fill, in sixteenths of the ring, from which on records are shed, and
 * from which on none is sent whole: the rest is for sums that have to go. */
#define SHED_FROM 12
#define SHED_ALL 15

/* Records of a CPU that are being summed up: programs may interrupt each other. */
#define SCRATCHES 4
struct scratch {
	struct ct_rec rec;
	struct ct_ext ext;
	__u32 busy;
	__u32 pad[31];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to CPUs * SCRATCHES */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* cfg_sums places per CPU, by mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to CPUs * cfg_sums */
	__type(key, __u32);
	__type(value, struct ct_sum);
} sums SEC(".maps");

/* One per CPU, by mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to the number of CPUs */
	__type(key, __u32);
	__type(value, struct ct_untold);
} untold SEC(".maps");

/* Takes a flag that programs which interrupt each other share. */
static __always_inline bool take_flag(__u32 *flag)
{
#ifdef LEGACY
	if (*(volatile __u32 *)flag)
		return false;
	*(volatile __u32 *)flag = 1;
	return true;
#else
	return !__sync_val_compare_and_swap(flag, 0, 1);
#endif
}

static __always_inline void drop_flag(__u32 *flag)
{
	barrier();
	*(volatile __u32 *)flag = 0;
}

#define SHED_WHOLE 128 /* plus k: to the ring */
#define SHED_NOWHERE 255

/*
 * Where a record goes when fill sixteenths of the ring are unread: to a scratch
 * (its number plus one), to the ring (SHED_WHOLE), or nowhere. By chance and not each
 * 2^k-th: inserts and destroys often come in turn.
 */
__noinline int shed(__u32 cpu, __u32 fill)
{
	__u32 i, n, k = 2 * (fill - SHED_FROM) + 1;
	struct scratch *s;

	if (fill < SHED_ALL && !(bpf_get_prandom_u32() & ((1U << (k & 7)) - 1)))
		return SHED_WHOLE + (k & 7);
	for (n = 0; n < SCRATCHES; n++) {
		i = cpu * SCRATCHES + n;
		s = bpf_map_lookup_elem(&scratches, &i);
		if (s && take_flag(&s->busy))
			return n + 1;
	}
	return SHED_NOWHERE;
}

/* Sends a sum away, so that its place is free. False when the ring is full. */
static __always_inline bool sum_out(struct ct_cpu *c, __u32 cpu, struct ct_sum *t, __u32 place, __u64 ts)
{
	__u64 unread = ring_unread(c);
	__u8 *ring = bpf_map_lookup_elem(&rings, &cpu);
	struct ct_rec *r;
	__u64 pos;

	if (!ring || unread > cfg_ring_slots - RING_SLACK)
		return false;
	pos = fetch_add(&c->head, 1);
	r = ring_slot(ring, pos);
	__builtin_memset((char *)r + 4, 0, sizeof(*r) - 4);
	r->kind = K_SUM;
	r->code = t->code;
	r->hook = t->kind;
	r->zone = t->zone;
	r->netns = t->netns;
	r->ts = ts;
	r->ptr = t->n;
	__builtin_memcpy(r->orig.src, t->src, sizeof(t->src));
	r->orig.l3num = t->l3num;
	r->aux[0] = place;
	r->aux[1] = t->epoch;
	*(__u64 *)&r->reply.src[0] = t->evicted;
	*(__u64 *)&r->reply.src[8] = t->last;
	ring_commit(r, pos);
	return true;
}

static __always_inline bool sum_is_of(const struct ct_sum *t, const struct ct_rec *r)
{
	const __u64 *a = (const void *)r->orig.src, *b = (const void *)t->src;

	return a[0] == b[0] && a[1] == b[1] && r->netns == t->netns && r->zone == t->zone && r->kind == t->kind &&
	       r->code == t->code && r->orig.l3num == t->l3num;
}

/*
 * The order of stores is what the reader relies on: within an epoch a place
 * belongs to one key and its numbers only grow; n is 0 while they are not that
 * of the epoch, or the key is not whole.
 */
static __always_inline bool sum_add(struct ct_cpu *c, __u32 cpu, struct ct_sum *t, __u32 place, const struct ct_rec *r)
{
	if (t->n && !sum_is_of(t, r)) {
		if (!sum_out(c, cpu, t, place, r->ts))
			return false;
		*(volatile __u64 *)&t->n = 0;
		barrier();
		*(volatile __u32 *)&t->epoch = t->epoch + 1;
		barrier();
	}
	if (!t->n) {
		__builtin_memcpy(t->src, r->orig.src, sizeof(t->src));
		t->netns = r->netns;
		t->zone = r->zone;
		t->kind = r->kind;
		t->code = r->code;
		t->l3num = r->orig.l3num;
		t->evicted = 0;
	}
	t->last = r->ts;
	if (r->kind == K_EVICTOR)
		t->evicted += r->aux[0];
	barrier();
	*(volatile __u64 *)&t->n = t->n + 1;
	return true;
}

/* Places where the sum of a key may be. */
#define SUM_WAYS 4

/* The place of a record's sum: its own, a free one, or one that has to go. */
static __always_inline __u32 sum_place(__u32 cpu, const struct ct_rec *r)
{
	const __u64 *a = (const void *)r->orig.src;
	__u32 base, at, free = 0;
	struct ct_sum *t;
	__u64 h;
	int i;

	h = (a[0] ^ r->netns) * 0x9e3779b97f4a7c15ULL;
	h ^= h >> 32;
	h = (h ^ a[1] ^ (__u64)r->kind << 48 ^ (__u64)r->code << 40 ^ r->zone) * 0xd1342543de82ef95ULL;
	base = cpu * cfg_sums + ((__u32)(h >> 32) & (cfg_sums - SUM_WAYS));
	for (i = SUM_WAYS - 1; i >= 0; i--) {
		at = base + i;
		t = bpf_map_lookup_elem(&sums, &at);
		if (!t)
			continue;
		if (!t->n)
			free = at + 1;
		else if (sum_is_of(t, r))
			return at;
	}
	return free ? free - 1 : base + (__u32)(h & (SUM_WAYS - 1));
}

/* The place of a protocol: see ProtoCounts in internal/event. */
static __always_inline __u32 proto_place(__u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		return 0;
	case IPPROTO_UDP:
		return 1;
	case IPPROTO_ICMP:
		return 2;
	case IPPROTO_ICMPV6:
		return 3;
	case IPPROTO_SCTP:
		return 4;
	case IPPROTO_DCCP:
		return 5;
	case IPPROTO_GRE:
		return 6;
	case IPPROTO_UDPLITE:
		return 7;
	}
	return 8;
}

/*
 * Where struct ct_untold counts a record: an insert by family and protocol, a
 * destroy by TCP, UDP, ICMP or other, and cause. 255 is for all else.
 */
static __always_inline __u32 untold_of(const struct ct_rec *r)
{
	__u32 proto = proto_place(r->orig.proto);

	if (r->kind == K_NEW)
		return (r->orig.l3num == AF_INET6) << 4 | proto;
	if (r->kind != K_DESTROY)
		return 255;
	if (proto > 1)
		proto = proto == 2 || proto == 3 ? 2 : 3;
	return UNTOLD_DESTROY + (proto << 5 | (r->code & 31));
}

/* Adds the record in a scratch, of this number plus one, to the sum of its source. */
__noinline int sum_up(__u32 cpu, __u32 to)
{
	__u32 i = cpu * SCRATCHES + to - 1;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &i);
	struct ct_cpu *c = bpf_map_lookup_elem(&cpus, &cpu);
	struct ct_untold *u;
	struct ct_sum *t;
	bool ok = false;

	if (!s || !c)
		return 0;
	u = bpf_map_lookup_elem(&untold, &cpu);
	if (u)
		__sync_fetch_and_add(&u->n[untold_of(&s->rec) & 255], 1);
	i = sum_place(cpu, &s->rec);
	t = bpf_map_lookup_elem(&sums, &i);
	if (t && take_flag(&t->busy)) {
		ok = sum_add(c, cpu, t, i, &s->rec);
		drop_flag(&t->busy);
	}
	__sync_fetch_and_add(ok ? &c->summed : &c->lost, 1);
	drop_flag(&s->busy);
	return 0;
}

#endif
