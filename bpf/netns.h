/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Inode numbers of network namespaces are used again, the lowest free one
 * first. The kernel gives a number back after conntrack has destroyed the last
 * entry of the namespace (net_ns_ops is registered before nf_conntrack_net_ops
 * and so leaves after it), so that what is counted under one number belongs to
 * one namespace after the other, never to two at once. Each beginning and each
 * end counts as a turn: an odd difference between two looks says that a
 * namespace came or went, two or more that the number has changed hands.
 */
#ifndef CTSIGHT_NETNS_H
#define CTSIGHT_NETNS_H

static __always_inline int on_netns_turn(const struct net *net)
{
	return count(bpf_get_smp_processor_id(), BPF_CORE_READ(net, ns.inum), CNT(turns));
}

#ifndef LEGACY
/*
 * nf_conntrack_init_net: once for each new namespace, and for all when the
 * module is loaded; process context. Nothing is tracked in it yet. Called from
 * another object file, so never inlined.
 */
SEC("fentry/nf_conntrack_init_net")
int BPF_PROG(netns_begin, struct net *net)
{
	return on_netns_turn(net);
}

/*
 * nf_conntrack_expect_pernet_fini: from nf_conntrack_cleanup_net_list (kworker,
 * or rmmod), when the last entry of the namespace is freed and just before its
 * statistics are. Also in another object file than its caller.
 */
SEC("fentry/nf_conntrack_expect_pernet_fini")
int BPF_PROG(netns_end, struct net *net)
{
	return on_netns_turn(net);
}
#endif

/* Both of the above. */
SEC("kprobe/nf_conntrack_init_net")
int BPF_KPROBE(k_netns, struct net *net)
{
	return on_netns_turn(net);
}

#endif
