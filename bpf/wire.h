/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that crosses the border between the programs and user space.
 * internal/abi is generated from these structs; a test there holds the layout.
 * Natural alignment, no hidden padding, network order kept as byte arrays.
 */
#ifndef CTSIGHT_WIRE_H
#define CTSIGHT_WIRE_H

/* Kinds of records. 1-5 are event.Kind; the rest never reaches a user. */
enum ct_kind {
	K_NEW = 1,
	K_DESTROY = 2,
	K_DROP = 3,
	K_NOTE = 4,
	K_INVALID = 5,
	K_EVICTOR = 6, /* the tuple that made early_drop evict: aux.link joins */
	K_EXT = 7,     /* the second half of the record before it */
	K_SUM = 9,     /* a struct ct_sum that had to go; 8 is nflink's */
};

/* event.Reason, same numbers. */
enum ct_reason {
	R_TABLE_FULL = 1,
	R_CT_NOMEM = 2,
	R_TCP_REOPEN_RACE = 3,
	R_CLASH_SAME_FLOW = 4,
	R_CLASH_REVERSE = 5,
	R_NAT_EXHAUSTED = 6,
	R_NAT_RACE = 7,
	R_CLASH_OTHER = 8,
	R_CHAIN_TOO_LONG = 9,
	R_CT_DYING = 10,
	R_DOUBLE_CONFIRM = 11,
	R_EXT_STALE = 12,
	R_SEQADJ = 13,
	R_HELPER = 14,
	R_EXPECT_LIMIT = 15,
	R_NAT_SETUP = 16,
	R_MASQ_NO_ADDR = 17,
	R_NAT_OIF_CHANGED = 18,
	R_RULESET_NEW = 19,
	R_RULESET_INVALID = 20,
	R_CONNLIMIT_ERROR = 21,
	R_SYNPROXY_COOKIE = 22,
	R_NFQUEUE_CLONE = 23,
	R_OTHER_NEW = 24,
	R_CONFIRM_UNKNOWN = 25,
	R_LOOKUP_UNKNOWN = 26,
	R_CLASH_MERGED = 32,
	R_CLASH_NAT_REPLY_ONLY = 33,
	R_SYNPROXY_CONSUMED = 34,
	R_CREATE_REFUSED = 35,
	R_INVALID = 40,
	R_ICMP_ERROR = 41,
	R_MAX = 48,
};

/* event.Cause, same numbers. */
enum ct_cause {
	C_UNKNOWN = 0,
	C_TIMEOUT_GC = 1,
	C_TIMEOUT_LOOKUP = 2,
	C_TIMEOUT_DUMP = 3,
	C_EARLY_DROP = 4,
	C_EARLY_DROP_GC = 5,
	C_TCP_REOPEN = 6,
	C_TCP_RST_UNREPLIED = 7,
	C_NAT_OIF_CHANGED = 8,
	C_DCCP_RESET = 9,
	C_NAT_PORT_REUSE = 10,
	C_USER_DELETE = 11,
	C_USER_FLUSH = 12,
	C_NETNS_EXIT = 13,
	C_MASQ_DEV_DOWN = 14,
	C_MASQ_ADDR_DEL = 15,
	C_NAT_UNLOAD = 16,
	C_FORCE_COMMIT = 17,
	C_IPVS = 18,
	C_PPTP = 19,
	C_FLOWTABLE = 20,
	C_EXT_STALE = 21,
	C_MAX = 24,
};

/* One direction of a flow, the layout of struct nf_conntrack_tuple. */
struct ct_tuple {
	__u8 src[16];
	__u8 sport[2]; /* network order; ICMP: id */
	__u16 l3num;   /* AF_INET, AF_INET6 */
	__u8 dst[16];
	__u8 dport[2]; /* network order; ICMP: type, code */
	__u8 proto;
	__u8 dir;
};

/*
 * One record, two cache lines. The order of zone..status is the order of
 * struct nf_conn, so that ct_copy() fills most of it in one go; the fields in
 * the gaps are written after that. seq is written last: slot number plus one
 * says that the record is whole.
 */
struct ct_rec {
	__u32 seq;
	__u16 zone;
	__u8 kind; /* enum ct_kind */
	__u8 code; /* enum ct_reason or ct_cause */
	__u64 ts;  /* bpf_ktime_get_ns */
	__u64 ptr; /* the entry's address */
	struct ct_tuple orig;
	__u32 netns;
	__u8 flags; /* RF_* */
	__u8 tcp_state;
	__u8 hook; /* netfilter hook + 1, 0 unknown */
	__u8 k;	   /* stands for 2^k events, see shed.h */
	__u32 aux[2]; /* NEW, DROP: iif, oif; DESTROY: jiffies left, link; EVICTOR: evicted, link */
	struct ct_tuple reply;
	__u32 status;
	__u32 mark;
};

/* Second half: what only some events have to say. */
struct ct_ext {
	__u32 seq;
	__u16 pad;
	__u8 kind; /* K_EXT */
	__u8 pad2;
	__u64 location; /* DROP: text address where the packet was freed */
	__u64 cgroup;
	__u64 other; /* clash: the winner's address */
	__u32 pid;
	__u32 kfree_reason;
	__u8 comm[16];
	__u8 tcp_flags; /* INVALID with RF_TCP_FLAGS: byte 13 of the TCP header */
	__u8 rest[71];
};

#define RF_EXT (1 << 0)	    /* a K_EXT record follows */
#define RF_TASK (1 << 1)    /* current was the cause, not an interrupted bystander */
#define RF_USER (1 << 2)    /* inserted by user space or BPF, not by a packet */
#define RF_REPLY_ONLY (1 << 3)
#define RF_TCP_FLAGS (1 << 4) /* known: not all of them may be 0 */

/*
 * Counters of one netns on one CPU. Exact whatever happens to the records.
 * Filled only by programs on that CPU (atomically: they may nest).
 */
struct ct_count {
	__u32 netns; /* 0: place is free; NETNS_OTHER: all that found no place; NETNS_LEAVING */
	__u32 pad;
	__u64 new;	   /* inserted by packets, both directions (B2) */
	__u64 new_user;	   /* nf_conntrack_hash_check_insert ok (B14) */
	__u64 chain_user;  /* the same, -ENOSPC */
	__u64 ext_post;	   /* ext_stale after the insert: counted by the kernel in drop */
	__u64 alloc;	   /* audit: __nf_conntrack_alloc ok */
	__u64 free;	   /* audit: nf_conntrack_free */
	__u64 taken;	   /* audit: nf_conntrack_tuple_taken returned 1 */
	__u64 evict_scope; /* early_drop runs that evicted */
	__u64 turns;	   /* a netns with this number came or went, see netns.h */
	__u64 spare[6];	   /* to a whole number of cache lines */
	__u64 reason[R_MAX];
	__u64 cause[C_MAX];
};

#define NETNS_OTHER 0xffffffff
#define NETNS_LEAVING 0xfffffffe /* user space takes the place back: nobody's */

/* State of one CPU: the ring's positions and what happened to records. */
struct ct_cpu {
	__u64 head; /* next slot to write; programs only */
	__u64 pc_addr; /* address of this CPU's preemption count */
	__u64 seen; /* records asked for, after the filter */
	__u64 lost; /* no room in the ring */
	__u64 filtered;
	__u64 stash_fail; /* no room in a hash map: an event may lack detail */
	__u64 zero; /* always 0: added where the verifier should forget what it knows, and follow one path for all */
	__u64 summed; /* records that went into a sum */
	__u64 tail; /* next slot to read; user space only, own cache line */
	__u64 asleep; /* the reader waits for the next record, whenever it comes */
	__u64 pad[6];
};

/*
 * How often an event of one kind, and of one reason or cause, happened to a
 * source, of those that were shed (shed.h). In a K_SUM record: hook is kind, ptr
 * n, aux its place and epoch, reply.src evicted and last.
 */
struct ct_sum {
	__u32 busy;
	__u32 epoch; /* grows when the place goes to another */
	__u8 src[16];
	__u32 netns;
	__u16 zone;
	__u8 kind;
	__u8 code;
	__u16 l3num;
	__u16 pad[3];
	__u64 n;
	__u64 evicted; /* K_EVICTOR: entries, n are packets */
	__u64 last;    /* ts */
};

/*
 * What a CPU shed or lost of inserts and destroys, by what the sums do not
 * tell: untold_of() says where. Grows only.
 */
#define UNTOLD_DESTROY 64
struct ct_untold {
	__u64 n[256];
};

/* One entry that user space wants to look at, and the answer. */
struct ct_peek {
	__u64 ptr;
	struct ct_tuple orig; /* expected */
	__u32 netns;	      /* expected */
	__u16 zone;	      /* expected */
	__u8 tcp_state;
	__u8 result; /* PEEK_* */
	__u32 status;
	__s32 timeout; /* jiffies left */
};

#define PEEK_GONE 0
#define PEEK_LIVE 1
#define PEEK_FAULT 2

/* Where a walk through the hash table is, between two runs. */
struct ct_walk {
	__u64 hash; /* nf_conntrack_hash */
	__u32 size; /* nf_conntrack_htable_size */
	__u32 bucket; /* next to be read */
	__u32 until; /* the one to stop before */
	__u32 out; /* entries in peeks */
	__u32 mark; /* of those, before this bucket */
	__u32 tries; /* to read this bucket */
	__u64 node; /* next in the chain; 0: the bucket is not begun */
	__u32 cut; /* buckets that were not read to their end */
	__u32 resized; /* times hash or size were others than before */
};

/* The filter: one conjunction. Zero or all-ones fields match everything. */
struct ct_filter {
	__u8 src[16], src_mask[16];
	__u8 dst[16], dst_mask[16];
	__u64 reasons;
	__u32 causes;
	__u32 kinds;
	__u32 netns; /* 0: any */
	__s32 zone;  /* -1: any */
	__u16 sport_min, sport_max;
	__u16 dport_min, dport_max;
	__u16 l3num; /* 0: any */
	__u8 proto;  /* 0: any */
	__u8 on;     /* 0: no filter at all */
	__u32 pad;
};

/* Text ranges by which the caller of an unusual delete is known. */
struct ct_range {
	__u64 start, end;
	__u64 cause; /* enum ct_cause */
};
#define MAX_RANGES 16

/* Addresses that user space takes from kallsyms; 0: not known. */
struct ct_ksyms {
	__u64 per_cpu_offset; /* __per_cpu_offset */
	__u64 preempt_count;  /* __preempt_count or pcpu_hot.preempt_count */
	__u64 ext_genid;      /* nf_conntrack_ext_genid */
	__u64 iter_net_only;  /* the wrapper of 5.10, iter_net_only() */
	__u64 hash, htable_size; /* nf_conntrack_hash, nf_conntrack_htable_size */
	__u64 flush, kill_all, device_cmp, inet_cmp, proto_clean;
	__u64 hook_slow[2], nft_chain[2], nf_queue[2], gc_expired[2];
	struct ct_range range[MAX_RANGES];
};

#endif
