package probe

// A hook is one kernel function (or tracepoint) and the programs for it. The
// table is data: a loop attaches, and what could not be attached is reported
// with what is lost without it.
type hook struct {
	symbol string
	group  group
	// entry and exit name fentry, fexit or tp_btf programs; kentry and kexit
	// kprobe, kretprobe or tracepoint programs. Empty: none. Where both of a
	// pair are named they are attached together or not at all.
	entry, exit   string
	kentry, kexit string
	// twice: both tasks and softirqs come here, and neither may be missed
	// because the other was in the program (done_by_first in bpf/emit.h).
	twice bool
	// inner is a function that does the same work where softirqs are off, so
	// that its program, innerEntry, need not be there twice. Where it can be
	// trusted (see Probe.attach) it is hooked instead.
	inner, innerEntry string
	// skip says what is missing when the kernel skips a run and no second
	// program acts for it.
	skip skipped
	// lost says what cannot be told without this hook.
	lost string
}

// skipped says what a run that did not happen costs.
type skipped uint8

const (
	losesEvent   skipped = iota
	losesDetail          // an event has a less exact reason than it could
	losesNothing         // another hook notices
)

// A group says when a hook is wanted.
type group uint8

const (
	core    group = iota // without it the backend is not this one
	always               // attached by default
	invalid              // with Options.Invalid: costs on every packet
	audit                // with Options.Audit: for checking the ledger
)

// hooks in the order of attaching: what closes an account before what opens
// one, so that no entry is seen leaving whose arrival could not be seen.
var hooks = []hook{
	{symbol: "nf_ct_resolve_clash", group: always, entry: "clash_entry", kentry: "k_clash",
		lost: "clashes are counted as chain_too_long or as new entries"},
	{symbol: "nf_nat_setup_info", group: always, exit: "nat_exit", kentry: "k_nat", kexit: "r_nat", skip: losesDetail,
		lost: "nat_race is reported as nat_exhausted, nat_setup as ruleset_new"},
	{symbol: "__nf_conntrack_confirm", group: core, twice: true, exit: "confirm_exit", kentry: "k_confirm", kexit: "r_confirm",
		lost: "new connections and failed inserts"},
	{symbol: "nf_conntrack_hash_check_insert", group: always, exit: "insert_exit", kentry: "k_insert", kexit: "r_insert",
		lost: "entries made by user space or BPF"},
	{symbol: "early_drop", group: always, twice: true, entry: "edrop_entry", exit: "edrop_exit", kentry: "k_edrop", kexit: "r_edrop",
		lost: "table_full is reported as ct_nomem, evictions have no culprit"},
	{symbol: "__nf_conntrack_alloc", group: core, exit: "alloc_exit", kentry: "k_alloc", kexit: "r_alloc",
		skip: losesNothing, // refused_unseen in bpf/hooks.h
		lost: "refused packets: table_full, ct_nomem"},
	{symbol: "gc_worker", group: always, entry: "gc_entry", exit: "gc_exit", kentry: "k_gc", kexit: "r_scope",
		lost: "timeout_gc is reported as timeout_lookup, early_drop_gc as unknown"},
	{symbol: "nf_ct_iterate_cleanup", group: always, entry: "iterate_entry", exit: "iterate_exit", kentry: "k_iterate", kexit: "r_scope",
		lost: "user_flush, netns_exit, masq_* are reported as unknown"},
	{symbol: "ctnetlink_del_conntrack", group: always, entry: "delete_entry", exit: "delete_exit", kentry: "k_delete", kexit: "r_scope",
		lost: "user_delete is reported as unknown"},
	{symbol: "ctnetlink_dump_table", group: always, entry: "dump_entry", exit: "dump_exit", kentry: "k_dump", kexit: "r_scope",
		lost: "timeout_dump is reported as timeout_lookup"},
	{symbol: "ct_seq_show", group: always, entry: "seq_entry", exit: "seq_exit", kentry: "k_dump", kexit: "r_scope",
		lost: "timeout_dump by readers of /proc is reported as timeout_lookup"},
	{symbol: "nf_ct_kill_acct", group: always, twice: true, entry: "kill_entry", exit: "kill_exit", kentry: "k_kill", kexit: "r_scope",
		lost: "tcp_rst_unreplied and nat_oif_changed are reported as unknown"},
	{symbol: "nf_ct_helper_destroy", group: core, twice: true, entry: "destroy_entry", kentry: "k_destroy",
		inner: "__nf_ct_delete_from_lists", innerEntry: "unlink_entry",
		lost: "destroys"},
	{symbol: "nf_nat_masquerade_ipv4", group: always, exit: "masq4_exit", kentry: "k_masq", kexit: "r_masq", skip: losesDetail,
		lost: "masq_no_addr is reported as ruleset_new"},
	{symbol: "nf_nat_masquerade_ipv6", group: always, exit: "masq6_exit", kentry: "k_masq", kexit: "r_masq", skip: losesDetail,
		lost: "masq_no_addr of IPv6 is reported as ruleset_new"},
	{symbol: "nf_ct_seq_adjust", group: always, exit: "seqadj_exit", kentry: "k_seqadj", kexit: "r_seqadj",
		lost: "seqadj drops"},
	{symbol: "nf_ct_helper_log", group: always, kentry: "k_helper",
		lost: "helper drops are reported as ruleset_new or not at all"},
	{symbol: "nf_ct_expect_related_report", group: always, exit: "expect_exit", kentry: "k_expect", kexit: "r_expect", skip: losesDetail,
		lost: "expect_limit is reported as helper"},
	{symbol: "nf_conncount_count_skb", group: always, exit: "conncount_exit", kentry: "k_conncount", kexit: "r_conncount", skip: losesDetail,
		lost: "connlimit_error is reported as ruleset_new"},
	{symbol: "synproxy_recv_client_ack", group: always, exit: "cookie_exit", kentry: "k_cookie", kexit: "r_cookie",
		lost: "synproxy_cookie drops"},
	{symbol: "synproxy_recv_client_ack_ipv6", group: always, exit: "cookie6_exit", kentry: "k_cookie", kexit: "r_cookie",
		lost: "synproxy_cookie drops of IPv6"},
	{symbol: "synproxy_send_client_synack", group: always, entry: "synack_entry", kentry: "k_synack",
		lost: "synproxy_consumed notes"},
	{symbol: "synproxy_send_client_synack_ipv6", group: always, entry: "synack6_entry", kentry: "k_synack",
		lost: "synproxy_consumed notes of IPv6"},
	{symbol: "nf_conntrack_expect_pernet_fini", group: always, entry: "netns_end", kentry: "k_netns",
		lost: "a namespace that took the number of another in the interval may go unnoticed"},
	{symbol: "nf_conntrack_init_net", group: always, entry: "netns_begin", kentry: "k_netns",
		lost: "a namespace that took the number of another in the interval may go unnoticed"},
	{symbol: "nf_conntrack_in", group: invalid, twice: true, exit: "in_exit", kentry: "k_in", kexit: "r_in",
		lost: "invalid packets and ruleset_invalid"},
	{symbol: "kfree_skb", group: always, twice: true, entry: "kfree_tp", kentry: "k_kfree",
		lost: "ruleset_new, other_new and all drops after NAT"},
	{symbol: "__nf_conntrack_alloc", group: audit, twice: true, exit: "audit_alloc", kexit: "r_audit", lost: "equality I1"},
	{symbol: "nf_conntrack_free", group: audit, twice: true, entry: "audit_free", kentry: "k_free", lost: "equality I1"},
	{symbol: "nf_conntrack_tuple_taken", group: audit, twice: true, exit: "audit_taken", kentry: "k_taken", kexit: "r_taken", lost: "equality I9"},
}

// hookModules are where hooked functions, and callers that programs know by
// their address, live when they are not built in. When one of them comes or
// goes, hooks and addresses are looked up again.
var hookModules = []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_conncount", "nf_synproxy_core",
	"nfnetlink_queue", "nf_tables", "openvswitch", "act_ct", "ip_vs", "nf_conntrack_pptp", "nf_flow_table"}
