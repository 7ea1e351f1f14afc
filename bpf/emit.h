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

/* Places where the counters of a netns may be, of each CPU. */
#define COUNT_WAYS 32

/*
 * Adds one to a counter of a netns on this CPU. A place is taken by the first
 * event. Inode numbers are handed out in sequence, but /proc takes of the same:
 * the next netns is some 70 numbers away, so the first place mostly fits. Two
 * that share it go on in different steps. When all are taken, the event counts
 * under NETNS_OTHER; user space takes back places that are not used
 * (internal/probe/places.go). A global function: verified once, not at every use.
 */
__noinline int count(__u32 cpu, __u32 netns, __u32 word)
{
	__u32 base = cpu * (cfg_count_slots + 1);
	struct ct_count *c;
	__u64 at = word * 8;
	__u32 i, idx;

	if (word < CNT(new))
		return 0;
	for (i = 0; i < COUNT_WAYS; i++) {
		idx = base + ((netns + i * (netns >> 8 | 1)) & (cfg_count_slots - 1));
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
	/* 5.10 knows of a number only what was tested in the very register that is
	 * used; the compiler prefers a copy. */
	asm volatile("%[at] &= 0x3f8\n\t"
		     "if %[at] >= %[size] goto +2\n\t"
		     "%[c] += %[at]\n\t"
		     "lock *(u64 *)(%[c] + 0) += %[one]"
		     : [c] "+r"(c), [at] "+r"(at)
		     : [size] "i"(sizeof(struct ct_count) - 7), [one] "r"(1ULL)
		     : "memory");
	return 0;
}

/*
 * The same for the two events that every flow has: tries the first place
 * without a call.
 */
static __always_inline void count_often(__u32 cpu, __u32 netns, __u32 word)
{
	__u32 idx = cpu * (cfg_count_slots + 1) + (netns & (cfg_count_slots - 1));
	struct ct_count *c = bpf_map_lookup_elem(&counts, &idx);

	asm volatile("" : "+r"(word)); /* the verifier has to see the next test */
	if (c && c->netns == netns && word < sizeof(struct ct_count) / 8)
		__sync_fetch_and_add((__u64 *)c + word, 1);
	else
		count(cpu, netns, word);
}

/* Room in every ring for programs that interrupt each other between the
 * check and the reservation. */
#define RING_SLACK 16

static __always_inline struct ct_rec *ring_slot(__u8 *ring, __u64 pos)
{
	return (struct ct_rec *)(ring + (pos & (cfg_ring_slots - 1)) * sizeof(struct ct_rec));
}

/* Records of this CPU that user space has not read yet. */
static __always_inline __u64 ring_unread(const struct ct_cpu *c)
{
	return *(volatile __u64 *)&c->head - *(volatile __u64 *)&c->tail;
}

/*
 * Takes n slots of this CPU's ring, from *pos on. False when the ring is full,
 * which is counted. Wakes the reader each time a quarter of the ring has been
 * written while at least a quarter is unread, and once when it is asleep.
 */
static __always_inline bool ring_reserve(struct ct_cpu *c, __u32 cpu, __u32 n, __u64 unread, __u64 *pos)
{
	__u32 quarter = cfg_ring_slots / 4;

	if (unread > cfg_ring_slots - RING_SLACK) {
		__sync_fetch_and_add(&c->lost, 1);
		return false;
	}
	*pos = fetch_add(&c->head, n);
	if ((unread >= quarter && ((*pos ^ (*pos + n)) & ~(__u64)(quarter - 1))) || *(volatile __u64 *)&c->asleep) {
		c->asleep = 0;
		bpf_ringbuf_output(&wake, &cpu, sizeof(cpu), BPF_RB_FORCE_WAKEUP);
	}
	return true;
}

static __always_inline void ring_commit(struct ct_rec *r, __u64 pos)
{
	barrier(); /* x86 keeps the order of stores; the reader loads seq first */
	*(volatile __u32 *)&r->seq = (__u32)pos + 1;
}

/*
 * The preemption count of this CPU, as a variable of the kernel. The loader
 * replaces the number by the variable's BTF id and then sets cfg_preempt_var;
 * cilium/ebpf knows externs for functions and addresses only.
 */
#define PREEMPT_VAR "0x6374736967687401"

static __always_inline __u32 preempt_count(void)
{
	void *p;

	asm volatile("%0 = " PREEMPT_VAR " ll" : "=r"(p));
	p = bpf_this_cpu_ptr(p);
	if (bpf_core_type_exists(struct pcpu_hot))
		return *(__u32 *)(p + bpf_core_field_offset(struct pcpu_hot, preempt_count));
	return *(__u32 *)p;
}

#define SERVING_SOFTIRQ 0x100 /* SOFTIRQ_OFFSET: serving, not merely disabled */

/*
 * Whether this CPU is handling a softirq, that is, whether current is a
 * bystander. False when the address of the preemption count is unknown.
 */
static __always_inline bool in_softirq(struct ct_cpu *c, __u32 cpu)
{
	__u64 addr, off = 0;
	__u32 count = 0;

	if (cfg_preempt_var)
		return preempt_count() & SERVING_SOFTIRQ;
	addr = c->pc_addr;
	if (!addr) {
		if (!ksyms.preempt_count || !ksyms.per_cpu_offset)
			return false;
		bpf_probe_read_kernel(&off, sizeof(off), (void *)(ksyms.per_cpu_offset + cpu * 8));
		addr = off + ksyms.preempt_count;
		c->pc_addr = addr;
	}
	bpf_probe_read_kernel(&count, sizeof(count), (void *)addr);
	return count & SERVING_SOFTIRQ;
}

/*
 * The kernel skips a program that interrupts itself: a softirq that arrives on
 * a CPU where a task is in it. Programs that both run are therefore attached
 * twice. The first acts and notes for what; the second has nothing to do but in
 * a softirq, when the note is not there: then the first was skipped. Not both
 * can be, for a task is in one of them at a time. Where tasks preempt each
 * other in the kernel one may still be skipped for another.
 * The loader puts 0 or 1 for the number, and the verifier removes the rest.
 */
#define SECOND "0x6374736967687402"

static __always_inline bool is_second(void)
{
	__u64 v;

	asm volatile("%0 = " SECOND " ll" : "=r"(v));
	return v;
}

enum {
	NOTE_CONFIRM,
	NOTE_DESTROY,
	NOTE_KFREE,
	NOTE_IN,
	NOTE_ALLOC,
	NOTE_FREE,
	NOTE_TAKEN,
};

/* Whether there is nothing to do; id names what happens, as long as it does. */
static __always_inline bool done_by_first(__u32 what, __u64 id)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 *note = &notes[cpu & (NOTE_CPUS - 1)].id[what];
	struct ct_cpu *c;

	if (!is_second()) {
		*note = id;
		return false;
	}
	if (cfg_preempt_var) {
		if (!(preempt_count() & SERVING_SOFTIRQ))
			return true;
	} else {
		c = cpu_state(&cpu);
		if (!c || !in_softirq(c, cpu))
			return true;
	}
	if (*note != id)
		return false;
	*note = 0;
	return true;
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
	struct ct_tuple t;

	if (!cfg_filter.on)
		return true;
	__builtin_memset(&t, 0, sizeof(t));
	ct_tuple_read(&t, ct, 0);
	if (filter_passes(kind, code, netns, ct_zone(ct), &t))
		return true;
	__sync_fetch_and_add(&c->filtered, 1);
	return false;
}

/*
 * The name of current, always with a zero at its end, as it is:
 * bpf_get_current_comm() spends its time on finding that zero.
 */
static __always_inline void comm_read(__u8 comm[16])
{
#ifdef LEGACY
	struct task_struct *t = (void *)bpf_get_current_task();

	bpf_probe_read_kernel(comm, 16, __builtin_preserve_access_index(&t->comm));
#else
	const __u64 *from = (void *)__builtin_preserve_access_index(&bpf_get_current_task_btf()->comm);
	__u64 *to = (void *)comm;

	to[0] = from[0];
	to[1] = from[1];
#endif
}

/* Who is current, for the second half of a record. */
static __always_inline void ext_task(struct ct_ext *x)
{
	x->pid = bpf_get_current_pid_tgid() >> 32;
	x->cgroup = bpf_get_current_cgroup_id();
	comm_read(x->comm);
}

/* Begins a second half: zeroed, kind set, not yet committed. */
static __always_inline void ext_init(struct ct_ext *x)
{
	x->kind = K_EXT;
	x->location = 0;
	x->cgroup = 0;
	x->other = 0;
	x->pid = 0;
	x->kfree_reason = 0;
	x->comm[0] = 0;
}

#endif
