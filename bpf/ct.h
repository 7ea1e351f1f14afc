/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Readers of struct nf_conn, and of packets that have none. */
#ifndef CTSIGHT_CT_H
#define CTSIGHT_CT_H

/* zone .. status of struct nf_conn is one block in every kernel checked. */
#define CT_BLOCK (sizeof(struct ct_rec) - 4)

static __always_inline bool ct_block_fits(void)
{
	return bpf_core_field_offset(struct nf_conn, status) + 8 -
		       bpf_core_field_offset(struct nf_conn, zone) == CT_BLOCK;
}

/* The zone of the original direction, nf_ct_zone_id(). */
static __always_inline __u16 ct_zone(const struct nf_conn *ct)
{
	if (!bpf_core_field_exists(ct->zone) || !(BPF_CORE_READ(ct, zone.dir) & 1))
		return 0;
	return BPF_CORE_READ(ct, zone.id);
}

/*
 * Copies zone, both tuples and the status of an entry into a record, in one
 * read where the kernel's order allows it. Fields of the record that lie in
 * the gaps are garbage afterwards: fill them after this call.
 */
static __always_inline void ct_copy(struct ct_rec *r, const struct nf_conn *ct)
{
	if (ct_block_fits()) {
		bpf_probe_read_kernel(&r->zone, CT_BLOCK,
				      __builtin_preserve_access_index(&ct->zone));
		if (!(r->code & 1)) /* nf_conntrack_zone.dir: for replies only */
			r->zone = 0;
	} else {
		bpf_probe_read_kernel(&r->orig, sizeof(r->orig),
				      __builtin_preserve_access_index(&ct->tuplehash[0].tuple));
		bpf_probe_read_kernel(&r->reply, sizeof(r->reply),
				      __builtin_preserve_access_index(&ct->tuplehash[1].tuple));
		r->status = BPF_CORE_READ(ct, status);
		r->zone = ct_zone(ct);
	}
}

/*
 * An entry from its timeout to its mark, as the kernel has it, on the stack: a
 * new entry needs of it its namespace before there is room in the ring, and
 * one long read costs less than three short ones. Up to the status it has the
 * layout of struct ct_rec.
 */
struct ct_img {
	__u64 w[24];
};

#define IMG_FROM 8 /* offset of the timeout */
#define IMG_GET(m, type, field) (*(type *)((char *)(m) + bpf_core_field_offset(struct nf_conn, field) - IMG_FROM))

static __always_inline __u32 img_size(void)
{
	if (bpf_core_field_exists(((struct nf_conn *)0)->mark))
		return bpf_core_field_offset(struct nf_conn, mark) + 4 - IMG_FROM;
	return bpf_core_field_offset(struct nf_conn, ct_net) + 8 - IMG_FROM;
}

/* Whether this kernel's layout allows it. A constant once the program is loaded. */
static __always_inline bool img_fits(void)
{
	return bpf_core_field_offset(struct nf_conn, timeout) == IMG_FROM &&
	       bpf_core_field_offset(struct nf_conn, zone) == IMG_FROM + 4 &&
	       bpf_core_field_offset(struct nf_conn, status) == IMG_FROM + CT_BLOCK - 4 &&
	       bpf_core_field_offset(struct nf_conn, ct_net) + 8 - IMG_FROM <= img_size() &&
	       img_size() <= sizeof(struct ct_img);
}

static __always_inline void img_read(struct ct_img *m, const struct nf_conn *ct)
{
	bpf_probe_read_kernel(m, img_size(), __builtin_preserve_access_index(&ct->timeout));
}

/* The entry's namespace: that of the packet's device, if it is the same. */
static __always_inline __u32 img_netns(const struct ct_img *m, const struct net_device *dev, bool typed)
{
	struct net *net = IMG_GET(m, struct net *, ct_net), *near;
	__u32 inum;

	if (typed) {
		near = dev->nd_net.net; /* zeros without a device */
		/* before the test, or the compiler reads it through the other, untyped pointer */
		inum = *(volatile unsigned int *)&near->ns.inum;
		if (near == net)
			return inum;
	}
	return BPF_CORE_READ(net, ns.inum);
}

/* ct_copy() from an image. */
static __always_inline void img_copy(struct ct_rec *r, const struct ct_img *m)
{
	__u64 *to = (__u64 *)r;
	int i;

#pragma unroll
	for (i = 3; i < 8; i++)
		to[i] = m->w[i];
#pragma unroll
	for (i = 10; i < 15; i++)
		to[i] = m->w[i];
	r->status = m->w[15];
	r->mark = bpf_core_field_exists(((struct nf_conn *)0)->mark) ? IMG_GET(m, __u32, mark) : 0;
	r->zone = m->w[0] >> 56 & 1 ? m->w[0] >> 32 : 0; /* nf_conntrack_zone.dir, .id */
}

static __always_inline void ct_tuple_read(struct ct_tuple *t, const struct nf_conn *ct, int dir)
{
	if (dir)
		bpf_probe_read_kernel(t, sizeof(*t),
				      __builtin_preserve_access_index(&ct->tuplehash[1].tuple));
	else
		bpf_probe_read_kernel(t, sizeof(*t),
				      __builtin_preserve_access_index(&ct->tuplehash[0].tuple));
}

static __always_inline __u32 ct_netns(const struct nf_conn *ct)
{
	return BPF_CORE_READ(ct, ct_net.net, ns.inum);
}

static __always_inline __u32 ct_mark(const struct nf_conn *ct)
{
	return bpf_core_field_exists(ct->mark) ? BPF_CORE_READ(ct, mark) : 0;
}

/*
 * Whether the entry was ever in the hash. __nf_conntrack_alloc() clears pprev
 * of the original direction and hashing sets it; the CONFIRMED bit is set
 * before the clash check in some trees (5.19 to 6.6). Up to 5.18 entries know
 * their CPU, and wait in lists of it that use pprev, but the bit is set by
 * hashing alone.
 */
static __always_inline bool ct_was_hashed(const struct nf_conn *ct)
{
	if (bpf_core_field_exists(ct->cpu))
		return BPF_CORE_READ(ct, status) & IPS_CONFIRMED;
	return BPF_CORE_READ(ct, tuplehash[0].hnnode.pprev) != NULL;
}

/* nf_ct_tuple_equal(): everything but the direction. */
static __always_inline bool tuple_equal(const struct ct_tuple *a, const struct ct_tuple *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] &&
	       !((x[4] ^ y[4]) & 0x00ffffffffffffffULL);
}

/*
 * The tuple of a packet without an entry, from its headers. Extension headers
 * of IPv6 are not followed: the protocol is then that of the first one.
 */
static __always_inline void pkt_tuple(struct ct_tuple *t, const struct sk_buff *skb, bool typed)
{
	__u8 *head = RD(typed, skb, head);
	__u16 nh = RD(typed, skb, network_header);
	__u16 proto = RD(typed, skb, protocol);
	__u8 *l3 = head + nh, *l4;
	__u8 b[4] = {};

	__builtin_memset(t, 0, sizeof(*t));
	if (proto == ETH_P_IP_BE) {
		t->l3num = AF_INET;
		bpf_probe_read_kernel(b, 1, l3);
		bpf_probe_read_kernel(&t->proto, 1, l3 + 9);
		bpf_probe_read_kernel(t->src, 4, l3 + 12);
		bpf_probe_read_kernel(t->dst, 4, l3 + 16);
		l4 = l3 + (b[0] & 0xf) * 4;
	} else if (proto == ETH_P_IPV6_BE) {
		t->l3num = AF_INET6;
		bpf_probe_read_kernel(&t->proto, 1, l3 + 6);
		bpf_probe_read_kernel(t->src, 16, l3 + 8);
		bpf_probe_read_kernel(t->dst, 16, l3 + 24);
		l4 = l3 + 40;
	} else {
		return;
	}
	switch (t->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_DCCP:
	case IPPROTO_SCTP:
	case IPPROTO_UDPLITE:
		bpf_probe_read_kernel(t->sport, 2, l4);
		bpf_probe_read_kernel(t->dport, 2, l4 + 2);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		bpf_probe_read_kernel(t->dport, 2, l4);
		bpf_probe_read_kernel(t->sport, 2, l4 + 4);
		break;
	}
}

/*
 * The flags of the TCP segment that pkt_tuple() has read t from. False when
 * they are not in the packet, or not in the part of it that is in one piece.
 */
static __always_inline bool pkt_tcp_flags(__u8 *flags, const struct ct_tuple *t, const struct sk_buff *skb, bool typed)
{
	__u8 *head = RD(typed, skb, head), ihl = 0;
	__u32 at = RD(typed, skb, network_header);

	if (t->proto != IPPROTO_TCP)
		return false;
	if (t->l3num == AF_INET) {
		bpf_probe_read_kernel(&ihl, 1, head + at);
		at += (ihl & 0xf) * 4;
	} else {
		at += 40;
	}
	if (at + 14 > RD(typed, skb, tail))
		return false;
	return !bpf_probe_read_kernel(flags, 1, head + at + 13);
}

#endif
