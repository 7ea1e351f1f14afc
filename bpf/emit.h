/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Count first, tell second: counters, ring, context keys, the filter. */
#ifndef CTSIGHT_EMIT_H
#define CTSIGHT_EMIT_H

#define barrier() asm volatile("" ::: "memory")

static __always_inline struct ct_cpu *cpu_state(__u32 *cpu)
{
	*cpu = bpf_get_smp_processor_id();
	return bpf_map_lookup_elem(&cpus, cpu);
}

/* The place of a counter in struct ct_count, in words. */
#define CNT(field) (__builtin_offsetof(struct ct_count, field) / 8)

/*
 * Adds one to a counter of a netns on this CPU. A place is taken by the first
 * event; inode numbers are handed out in sequence, so that the first place
 * almost always fits. When four are taken, the event counts under NETNS_OTHER.
 * A global function: verified once, not at every use.
 */
__noinline int count(__u32 cpu, __u32 netns, __u32 word)
{
	__u32 base = cpu * (cfg_count_slots + 1);
	struct ct_count *c;
	__u32 i, idx;

	if (word < CNT(new) || word >= sizeof(struct ct_count) / 8)
		return 0;
	for (i = 0; i < 4; i++) {
		idx = base + ((netns + i) & (cfg_count_slots - 1));
		c = bpf_map_lookup_elem(&counts, &idx);
		if (!c)
			return 0;
		if (c->netns == netns || (!c->netns && claim(&c->netns, netns)))
			goto found;
	}
	idx = base + cfg_count_slots;
	c = bpf_map_lookup_elem(&counts, &idx);
	if (!c)
		return 0;
	c->netns = NETNS_OTHER;
found:
	__sync_fetch_and_add((__u64 *)c + word, 1);
	return 0;
}

/* Room in every ring for programs that interrupt each other between the
 * check and the reservation. */
#define RING_SLACK 16

static __always_inline struct ct_rec *ring_slot(__u32 cpu, __u64 pos)
{
	__u8 *ring = bpf_map_lookup_elem(&rings, &cpu);
	__u64 off = (pos & (cfg_ring_slots - 1)) * sizeof(struct ct_rec);

	if (!ring)
		return NULL;
	return (struct ct_rec *)(ring + off);
}

/*
 * Takes n slots of this CPU's ring. Returns the first position plus one, or 0
 * when the ring is full, which is counted. Wakes the reader each time a
 * quarter of the ring has been written while at least a quarter is unread.
 */
static __always_inline __u64 ring_reserve(struct ct_cpu *c, __u32 cpu, __u32 n)
{
	__u64 unread = *(volatile __u64 *)&c->head - *(volatile __u64 *)&c->tail;
	__u32 quarter = cfg_ring_slots / 4;
	__u64 pos;

	__sync_fetch_and_add(&c->seen, 1);
	if (unread > cfg_ring_slots - RING_SLACK) {
		__sync_fetch_and_add(&c->lost, 1);
		return 0;
	}
	pos = fetch_add(&c->head, n);
	if (unread >= quarter && ((pos ^ (pos + n)) & ~(__u64)(quarter - 1)))
		bpf_ringbuf_output(&wake, &cpu, sizeof(cpu), BPF_RB_FORCE_WAKEUP);
	return pos + 1;
}

static __always_inline void ring_commit(struct ct_rec *r, __u64 pos1)
{
	barrier(); /* x86 keeps the order of stores; the reader loads seq first */
	*(volatile __u32 *)&r->seq = (__u32)pos1;
}

/*
 * Whether this CPU is handling a softirq, that is, whether current is a
 * bystander. False when the address of the preemption count is unknown.
 */
static __always_inline bool in_softirq(struct ct_cpu *c, __u32 cpu)
{
	__u64 addr = c->pc_addr;
	__u64 off = 0;
	__u32 count = 0;

	if (!addr) {
		if (!ksyms.preempt_count || !ksyms.per_cpu_offset)
			return false;
		bpf_probe_read_kernel(&off, sizeof(off), (void *)(ksyms.per_cpu_offset + cpu * 8));
		addr = off + ksyms.preempt_count;
		c->pc_addr = addr;
	}
	bpf_probe_read_kernel(&count, sizeof(count), (void *)addr);
	return count & 0x100; /* SOFTIRQ_OFFSET: serving, not merely disabled */
}

/*
 * What runs here, exactly: a task, and whether a softirq interrupted it. Each
 * of the functions hooked runs at most once at a time in such a context, on
 * whatever CPU it continues. Bits 1-5 are free for the caller.
 */
static __always_inline __u64 ctx_key(struct ct_cpu *c, __u32 cpu)
{
	return (bpf_get_current_task() & ~63ULL) | in_softirq(c, cpu);
}

static __always_inline bool addr_matches(const __u8 *a, const volatile __u8 *want, const volatile __u8 *mask)
{
	int i;

#pragma unroll
	for (i = 0; i < 16; i++)
		if ((a[i] & mask[i]) != want[i])
			return false;
	return true;
}

static __always_inline bool port_within(const __u8 *p, __u16 min, __u16 max)
{
	__u16 v = (__u16)p[0] << 8 | p[1];

	return v >= min && v <= max;
}

/* cfg_filter against one event. All reads of cfg_filter are constants. */
static __always_inline bool filter_passes(__u8 kind, __u8 code, __u32 netns, __u16 zone, const struct ct_tuple *t)
{
	bool icmp = t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6;

	if (!(cfg_filter.kinds >> kind & 1))
		return false;
	if ((kind == K_DROP || kind == K_NOTE || kind == K_INVALID) && code < 64 && !(cfg_filter.reasons >> code & 1))
		return false;
	if (kind == K_DESTROY && code < 32 && !(cfg_filter.causes >> code & 1))
		return false;
	if (cfg_filter.netns && cfg_filter.netns != netns)
		return false;
	if (cfg_filter.zone >= 0 && cfg_filter.zone != zone)
		return false;
	if (cfg_filter.proto && cfg_filter.proto != t->proto)
		return false;
	if (cfg_filter.l3num && cfg_filter.l3num != t->l3num)
		return false;
	if (cfg_filter.sport_min || cfg_filter.sport_max != 0xffff)
		if (icmp || !port_within(t->sport, cfg_filter.sport_min, cfg_filter.sport_max))
			return false;
	if (cfg_filter.dport_min || cfg_filter.dport_max != 0xffff)
		if (icmp || !port_within(t->dport, cfg_filter.dport_min, cfg_filter.dport_max))
			return false;
	return addr_matches(t->src, cfg_filter.src, cfg_filter.src_mask) &&
	       addr_matches(t->dst, cfg_filter.dst, cfg_filter.dst_mask);
}

/* The same for an entry; false is counted. */
static __always_inline bool ct_passes(struct ct_cpu *c, __u8 kind, __u8 code, __u32 netns, const struct nf_conn *ct)
{
	struct ct_tuple t = {};

	if (!cfg_filter.on)
		return true;
	ct_tuple_read(&t, ct, 0);
	if (filter_passes(kind, code, netns, ct_zone(ct), &t))
		return true;
	__sync_fetch_and_add(&c->filtered, 1);
	return false;
}

/* Who is current, for the second half of a record. */
static __always_inline void ext_task(struct ct_ext *x)
{
	x->pid = bpf_get_current_pid_tgid() >> 32;
	x->cgroup = bpf_get_current_cgroup_id();
	bpf_get_current_comm(x->comm, sizeof(x->comm));
}

/* The second half at pos1 + 1: zeroed, kind set, not yet committed. */
static __always_inline struct ct_ext *ext_slot(__u32 cpu, __u64 pos1)
{
	struct ct_ext *x = (struct ct_ext *)ring_slot(cpu, pos1);

	if (!x)
		return NULL;
	x->kind = K_EXT;
	x->location = 0;
	x->cgroup = 0;
	x->other = 0;
	x->pid = 0;
	x->kfree_reason = 0;
	x->comm[0] = 0;
	return x;
}

#endif
