/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef CTSIGHT_MAPS_H
#define CTSIGHT_MAPS_H

/* Set by the loader before the programs are verified; dead code is pruned. */
const volatile __u32 cfg_ring_slots = 1; /* per CPU, a power of two */
const volatile __u32 cfg_ncpu = 1;
const volatile __u32 cfg_count_slots = 1; /* netns places per CPU, a power of two */
const volatile struct ct_filter cfg_filter = {};
const volatile __u32 cfg_sums = 0; /* per CPU, a power of two; 0: no record is shed */
const volatile __u8 cfg_preempt_var = 0; /* PREEMPT_VAR is in place, see emit.h */
const volatile __u8 cfg_invalid = 0; /* nf_conntrack_in is hooked */

/* Written by the loader when modules come and go. */
struct ct_ksyms ksyms = {};

/*
 * How many entries each stash below holds. The common path reads one word
 * that hardly ever changes instead of asking a hash map.
 */
struct {
	__s64 scope, edrop, clash, lost, mark, invalid, nat;
} pending = {};

/* What the first of two equal programs has acted on, see done_by_first(). */
#define NOTE_CPUS 1024 /* with more processors nothing is attached twice */
struct {
	__u64 id[8]; /* NOTE_* */
} notes[NOTE_CPUS] __attribute__((aligned(64))) = {};

/*
 * The rings: one value per CPU, cfg_ring_slots records each. An array and not
 * BPF_MAP_TYPE_RINGBUF: its reserve and submit cost more than the rest of a
 * program here together (docs/performance.md). Programs of this CPU write,
 * one reader in user space reads, by mmap.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to the number of CPUs */
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct ct_rec)); /* times cfg_ring_slots */
} rings SEC(".maps");

/* One struct ct_cpu per CPU, by mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to the number of CPUs */
	__type(key, __u32);
	__type(value, struct ct_cpu);
} cpus SEC(".maps");

/* cfg_count_slots places per CPU and one more (NETNS_OTHER), by mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to CPUs * (cfg_count_slots + 1) */
	__type(key, __u32);
	__type(value, struct ct_count);
} counts SEC(".maps");

/*
 * The only BPF ring buffer carries no data: a 4-byte message in it wakes the
 * reader when a ring passes a quarter of its size.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} wake SEC(".maps");

/* What runs in a context, from the entry to the exit of a function. */
struct scope {
	__u64 key; /* ctx_key(); 0: place is free */
	__u32 type; /* SCOPE_* */
	__u32 cause;
	__u32 link;
	__u32 evicted;
	__u64 ptr; /* SCOPE_KILL: the entry; SCOPE_EDROP: netns and hash, see edrop_id() */
	__u64 cgroup; /* this and the rest: current, where it is the cause */
	__u32 pid;
	__u32 pad;
	__u8 comm[16];
};

/*
 * All scopes that are open: at most two per CPU at a time, and sleepers. Every
 * destroy inside a scope looks here, so it is not a hash map but four places
 * for each hash value; LEGACY has no means to take a place.
 */
#define SCOPE_WAYS 4
#define SCOPE_BITS 10
struct scope_set {
	struct scope way[SCOPE_WAYS];
};
struct {
#ifdef LEGACY
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct scope);
#else
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SCOPE_BITS);
	__type(key, __u32);
	__type(value, struct scope_set);
#endif
} scopes SEC(".maps");

/* early_drop's result, from its return to the return of __nf_conntrack_alloc. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64); /* ctx_key() */
	__type(value, struct scope);
} edrops SEC(".maps");

/* An unfinished clash: key skb, from nf_ct_resolve_clash to confirm's return. */
struct clash {
	struct ct_tuple orig, reply; /* the loser's */
	__u64 loser, winner;
	__u32 reason; /* if it ends in a drop */
	__u32 netns, status, mark, zone, pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct clash);
} clashes SEC(".maps");

/* A packet whose loss is already told: key skb, value its entry's address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* a packet may vanish unseen */
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} losses SEC(".maps");

/* Why the packet now in this context is about to be dropped: key ctx_key(). */
struct mark {
	__u64 skb; /* or 0 */
	__u64 ct;  /* or 0 */
	__u32 reason;
	__u32 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* not every mark ends in a drop */
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct mark);
} marks SEC(".maps");

/* Arguments between a kprobe and its kretprobe: key ctx_key() ^ hook. */
struct args {
	__u64 a[5];
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct args);
} argstash SEC(".maps");

/*
 * Packets that conntrack called invalid (--invalid): key skb. Most of them are
 * not dropped and stay here until their place is needed, while the skb is long
 * used again: what is in them tells.
 */
struct invalid {
	struct ct_tuple tuple;
	__u32 netns, pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct invalid);
} invalids SEC(".maps");

/*
 * When an entry was inserted, and when NAT was set up for one: the last of
 * each CPU, by address. Only a clash between two NATed entries asks.
 */
#define RECENT 1024
#define INSERTED 0
#define NATTED 1
struct recent {
	__u64 ptr, ts;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to CPUs * 2 * RECENT */
	__type(key, __u32);
	__type(value, struct recent);
} recents SEC(".maps");

/* Set and read by user space before and after each run of the program walk. */
struct ct_walk walking = {};

/* A batch of entries to look at, by mmap; only under BPF_PROG_TEST_RUN. */
#define PEEK_BATCH 512
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PEEK_BATCH);
	__type(key, __u32);
	__type(value, struct ct_peek);
} peeks SEC(".maps");

#endif
