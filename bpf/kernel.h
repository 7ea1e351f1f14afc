/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The fields of kernel structs that ctsight reads, and nothing else. Offsets
 * and sizes are taken from the running kernel's BTF when the programs are
 * loaded (CO-RE), so order and padding here mean nothing.
 */
#ifndef CTSIGHT_KERNEL_H
#define CTSIGHT_KERNEL_H

#define __VMLINUX_H__ /* bpf_tracing.h: the kernel's names of registers */

typedef unsigned char __u8;
typedef signed short __s16;
typedef unsigned short __u16;
typedef signed int __s32;
typedef unsigned int __u32;
typedef signed long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
#ifndef bool
#define bool _Bool
#define true 1
#define false 0
#endif
#define NULL ((void *)0)

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};
#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_F_MMAPABLE (1U << 10)
#define BPF_RB_FORCE_WAKEUP 2

/* Verdicts, include/uapi/linux/netfilter.h. */
#define NF_DROP 0
#define NF_ACCEPT 1

#define EMFILE 24

#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_GRE 47
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136
#define AF_INET 2
#define AF_INET6 10
#define ETH_P_IP_BE 0x0008
#define ETH_P_IPV6_BE 0xdd86

/* Bits of nf_conn.status, include/uapi/linux/netfilter/nf_conntrack_common.h. */
#define IPS_SEEN_REPLY (1 << 1)
#define IPS_ASSURED (1 << 2)
#define IPS_CONFIRMED (1 << 3)
#define IPS_NAT_MASK ((1 << 4) | (1 << 5))
#define IPS_DYING (1 << 9)
#define IPS_FIXED_TIMEOUT (1 << 10)
#define IPS_TEMPLATE (1 << 11)

/* skb->_nfct: pointer and enum ip_conntrack_info in the low bits. */
#define NFCT_INFOMASK 7UL
#define NFCT_PTRMASK (~7UL)
#define IP_CT_IS_REPLY 3
#define IP_CT_UNTRACKED 7

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next, *prev;
};

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	int ifindex;
	possible_net_t nd_net;
};

struct sk_buff {
	struct net_device *dev;
	unsigned long _nfct;
	int skb_iif;
	__be16 protocol;
	__u16 transport_header;
	__u16 network_header;
	__u32 tail; /* sk_buff_data_t: an offset from head */
	unsigned char *head;
};

struct nf_conntrack_zone {
	u16 id;
	u8 flags;
	u8 dir;
};

struct hlist_nulls_node {
	struct hlist_nulls_node *next, **pprev;
};

/* Kept opaque: ct.h copies tuples whole, as struct ct_tuple of wire.h. */
struct nf_conntrack_tuple {
	char opaque[40];
};

struct nf_conntrack_tuple_hash {
	struct hlist_nulls_node hnnode;
	struct nf_conntrack_tuple tuple;
};

typedef struct {
	int counter;
} atomic_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

struct nf_conntrack {
	refcount_t use;
};

struct nf_ct_ext {
	unsigned int gen_id; /* 5.19 to 6.18, see ext_is_stale() */
};

struct ip_ct_tcp {
	u8 state;
};

union nf_conntrack_proto {
	struct ip_ct_tcp tcp;
};

struct nf_conn {
	struct nf_conntrack ct_general;
	u32 timeout;
	struct nf_conntrack_zone zone;
	u16 cpu; /* up to 5.18 */
	struct nf_conntrack_tuple_hash tuplehash[2];
	unsigned long status;
	possible_net_t ct_net;
	struct nf_conn *master;
	u32 mark;
	struct nf_ct_ext *ext;
	union nf_conntrack_proto proto;
};

struct nf_conntrack_expect {
	struct nf_conn *master;
};

struct nf_hook_state {
	u8 hook;
	u8 pf;
	struct net_device *in, *out;
	struct net *net;
};

/* Since 5.19 nf_ct_iterate_cleanup gets this; before, struct iter_data. */
struct nf_ct_iter_data {
	struct net *net;
};

struct task_struct {
	char comm[16];
};

/* 6.2 to 6.14 keep the preemption count of x86 here. */
struct pcpu_hot {
	int preempt_count;
};

struct bpf_raw_tracepoint_args;

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
};

#pragma clang attribute pop

/* Values differ between kernels: always through bpf_core_enum_value(). */
enum skb_drop_reason {
	SKB_DROP_REASON_NETFILTER_DROP = 7,
};

/* The register frame of x86-64, arch/x86/include/asm/ptrace.h (stable ABI). */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};

#endif
