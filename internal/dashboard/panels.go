package dashboard

// rows are the dashboard, from what is asked first on: is something wrong, where,
// who, what is lost, and can that be believed.
func rows() []row {
	return []row{now(), nodesRow(), tablesRow(), connections(), losses(), belief()}
}

func now() row {
	worse := []mark{{0, "green"}, {0.1, "orange"}, {1, "red"}}
	return row{"Now", 4, []chart{
		{width: 4, kind: "stat", title: "Fullest table", unit: "percentunit", tells: "Entries by limit of the fullest of the chosen tables. Over 95 % somebody is woken.",
			queries: []query{{expr: `max(ctsight_table_fill_ratio{netns})`}}, style: style{marks: fillMarks}},
		{width: 4, kind: "stat", title: "Shortest time to full", unit: "s", tells: "The first of the chosen tables to be full if arrivals go on like this; never while that is not certain.",
			queries: []query{{expr: `min(ctsight_table_time_to_full_seconds{` + tables + `, bound="expected"} < +Inf)`}},
			style:   style{marks: []mark{{0, "red"}, {300, "orange"}, {14400, "green"}}, noValue: "never"}},
		{width: 4, kind: "stat", title: "New connections", unit: "cps", tells: "Entries inserted per second, on the chosen nodes.",
			queries: []query{{expr: `sum(rate(ctsight_new_connections_total{}[]))`}}},
		{width: 4, kind: "stat", title: "Packets lost", unit: "pps", tells: "Per second, by conntrack and not by the operator's own rules.",
			queries: []query{{expr: `sum(rate(ctsight_drops_total{, reason!~"ruleset_.*|synproxy_cookie|other_new"}[]))`}}, style: style{marks: worse}},
		{width: 4, kind: "stat", title: "Evictions", unit: "cps", tells: "Entries per second that were thrown out to make room.",
			queries: []query{{expr: `sum(rate(ctsight_destroyed_connections_total{, cause=~"early_drop|early_drop_gc"}[]))`}}, style: style{marks: worse}},
		{width: 4, kind: "stat", title: "Nodes that trace", unit: "percentunit", tells: "Of the chosen nodes that can be scraped: those whose probes are attached. The others wait for nf_conntrack.",
			queries: []query{{expr: `avg(ctsight_tracing{})`}}, style: style{marks: []mark{{0, "red"}, {0.999, "green"}}}},
	}}
}

// nodesRow is of all nodes at once, from recording.yml.
func nodesRow() row {
	return row{"All nodes (recording.yml)", 7, []chart{
		{width: 8, kind: "timeseries", title: "Fullest table of each node", unit: "percentunit", tells: "With the marks of trend (70 %), action (85 %) and critical (95 %).",
			queries: []query{{expr: `instance:ctsight_table_fill_ratio:max{}`, legend: "{{instance}}"}}, style: style{marks: fillMarks, lines: true, min: ptr(0), max: ptr(1)}},
		{width: 8, kind: "timeseries", title: "New connections of each node", unit: "cps", tells: "Per second, over two minutes. Look for the one that differs from the others.",
			queries: []query{{expr: `instance:ctsight_new_connections:rate2m{}`, legend: "{{instance}}"}}, style: style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Packets lost, entries evicted, records lost", unit: "short",
			tells: "Packets and entries per second by node; records lost as a share of all. All three are 0 on a good day.",
			queries: []query{{expr: `instance:ctsight_drops:rate2m{}`, legend: "{{instance}} packets/s"}, {expr: `instance:ctsight_evictions:rate2m{}`, legend: "{{instance}} entries/s"},
				{expr: `instance:ctsight_events_lost:ratio_rate5m{}`, legend: "{{instance}} records"}}, style: style{min: ptr(0)}},
	}}
}

func tablesRow() row {
	return row{"Tables: when are they full", 8, []chart{
		{width: 12, kind: "timeseries", title: "Fill", unit: "percentunit", tells: "Entries by limit, with the marks of trend (70 %), action (85 %) and critical (95 %). From 95 % on the kernel may evict, at 100 % it loses packets.",
			queries: []query{{expr: `ctsight_table_fill_ratio{netns}`, legend: "{{instance}} {{netns}}"}}, style: style{marks: fillMarks, lines: true, min: ptr(0), max: ptr(1)}},
		{width: 12, kind: "timeseries", title: "Time to full", unit: "s", tells: "Forecast, with its bounds, if arrivals go on like this. No line: it will not fill, or that is not known. Under 5 minutes somebody is woken.",
			queries: []query{{expr: `ctsight_table_time_to_full_seconds{netns} < +Inf`, legend: "{{instance}} {{netns}} {{bound}}"}},
			style:   style{marks: []mark{{0, "red"}, {300, "orange"}, {14400, "green"}}, lines: true, log: true, overlay: ".*(low|high)$", noValue: "never"}},
		{width: 12, kind: "timeseries", title: "Entries and limit", unit: "short", tells: "Dashed is the limit, nf_conntrack_max. It is one for all tables of a node.",
			queries: []query{{expr: `ctsight_table_entries{netns}`, legend: "{{instance}} {{netns}}"}, {expr: `ctsight_table_limit{netns}`, legend: "{{instance}} {{netns}} limit"}},
			style:   style{min: ptr(0), overlay: ".*limit$"}},
		{width: 12, kind: "timeseries", title: "Share of the first ten sources", unit: "percentunit", tells: "Of all live entries of a node, by rank. One broad band is one source that holds the table: ctsight top --once --sort live says which.",
			queries: []query{{expr: `ctsight_top_source_share{}`, legend: "{{instance}} #{{rank}}"}}, style: style{stack: true, min: ptr(0)}},
	}}
}

func connections() row {
	const lived = `ctsight_connection_lifetime_seconds`
	return row{"Connections: who comes, how long they stay", 8, []chart{
		{width: 12, kind: "timeseries", title: "New connections by protocol, and peaks", unit: "cps",
			tells: "Stacked: per second. Dashed: the highest rate in any 10 ms, 100 ms and 1 s since the last scrape. Peaks far over the stack are bursts that a mean hides.",
			queries: []query{{expr: `sum by (proto) (rate(ctsight_new_connections_total{}[]))`, legend: "{{proto}}"},
				{expr: `max by (window) (ctsight_new_connections_peak_rate{})`, legend: "peak in {{window}}"}}, style: style{stack: true, min: ptr(0), overlay: "peak.*"}},
		{width: 12, kind: "timeseries", title: "Entries destroyed, by cause", unit: "cps", tells: "Per second. Timeouts are ordinary; early_drop and early_drop_gc make room in a full table, user_flush is somebody emptying it.",
			queries: []query{{expr: `sum by (cause) (rate(ctsight_destroyed_connections_total{}[]))`, legend: "{{cause}}"}}, style: style{stack: true, min: ptr(0)}},
		{width: 12, kind: "heatmap", title: "Lifetimes", unit: "s", tells: "From insert to destroy. A bright band low down is scans and short requests; bands at 30 s or 120 s are timeouts of what had no answer. Native histograms are taken where Prometheus keeps no classic ones.",
			queries: []query{{expr: `sum by (le) (increase(` + lived + `_bucket{}[]))`, legend: "{{le}}", format: "heatmap"},
				{expr: `sum(increase(` + lived + `{}[])) unless on () sum(increase(` + lived + `_bucket{}[]))`, format: "heatmap"}}},
		{width: 6, kind: "timeseries", title: "Unanswered", unit: "percentunit", tells: "Of entries that ended, those that never saw a packet in the other direction, by protocol. Scans, floods and services that are down push it up.",
			queries: []query{{expr: `sum by (proto) (rate(` + lived + `_count{, outcome="unanswered"}[])) / (sum by (proto) (rate(` + lived + `_count{}[])) > 0)` +
				` or sum by (proto) (histogram_count(rate(` + lived + `{, outcome="unanswered"}[]))) / (sum by (proto) (histogram_count(rate(` + lived + `{}[]))) > 0)`, legend: "{{proto}}"}},
			style: style{min: ptr(0), max: ptr(1)}},
		{width: 6, kind: "timeseries", title: "New connections of the first ten sources", unit: "cps", tells: "By rank, over the last second. ctsight top --once says who they are.",
			queries: []query{{expr: `max by (rank) (ctsight_top_source_new_rate{})`, legend: "#{{rank}}"}}, style: style{min: ptr(0)}},
	}}
}

func losses() row {
	return row{"Losses: what, and to which cause", 8, []chart{
		{width: 12, kind: "timeseries", title: "Packets lost, by reason", unit: "pps", tells: "Against the operator's will. ctsight help reasons explains each; ctsight drops says whose they are.",
			queries: []query{{expr: `sum by (reason) (rate(ctsight_drops_total{, reason!~"ruleset_.*|synproxy_cookie"}[])) > 0`, legend: "{{reason}}"}},
			style:   style{stack: true, bars: true, min: ptr(0), noValue: "none"}},
		{width: 12, kind: "timeseries", title: "Entries evicted", unit: "cps", tells: "early_drop is a packet that found the table full and threw out another's entry, early_drop_gc the kernel's collector from 95 % on.",
			queries: []query{{expr: `sum by (instance, cause, proto) (rate(ctsight_destroyed_connections_total{, cause=~"early_drop|early_drop_gc"}[])) > 0`, legend: "{{instance}} {{cause}} {{proto}}"}},
			style:   style{stack: true, bars: true, min: ptr(0), noValue: "none"}},
		{width: 8, kind: "timeseries", title: "Lost to the operator's own rules", unit: "pps", tells: "By intent: first packets (ruleset_new), invalid ones (ruleset_invalid, where they are looked at), ACKs with a wrong SYN cookie.",
			queries: []query{{expr: `sum by (reason) (rate(ctsight_drops_total{, reason=~"ruleset_.*|synproxy_cookie"}[]))`, legend: "{{reason}}"}}, style: style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Told, nothing lost", unit: "cps", tells: "Clashes that the kernel resolved by merging two entries, SYNs that synproxy answered, entries refused to user space.",
			queries: []query{{expr: `sum by (reason) (rate(ctsight_notes_total{}[]))`, legend: "{{reason}}"}}, style: style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Findings", unit: "short", tells: "Incidents that the detectors found, by class. The page of ctsight on the node has the evidence.",
			queries: []query{{expr: `sum by (instance, class) (increase(ctsight_findings_total{}[]))`, legend: "{{instance}} {{class}}"}}, style: style{bars: true, min: ptr(0), noValue: "none"}},
	}}
}

func belief() row {
	return row{"Can it be believed: ctsight itself", 7, []chart{
		{width: 8, kind: "timeseries", title: "Difference to the kernel's counters", unit: "short", tells: "Traced minus counted, by counter. It is 0; entries may be off by the packets that are on their way in.",
			queries: []query{{expr: `ctsight_ledger_difference{}`, legend: "{{instance}} {{counter}}"}}},
		{width: 8, kind: "timeseries", title: "Records lost", unit: "percentunit", tells: "Of all records, by stage. Counters stay exact all the same with fentry and kprobe; sources and lifetimes miss these.",
			queries: []query{{expr: `sum by (instance, stage) (rate(ctsight_events_lost_total{}[])) / on (instance) group_left () (sum by (instance) (rate(ctsight_events_seen_total{}[])) > 0)`,
				legend: "{{instance}} {{stage}}"}}, style: style{bars: true, min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Records", unit: "cps", tells: "Seen = delivered + aggregated + lost. Records are aggregated while a ring is nearly full.",
			queries: []query{{expr: `sum(rate(ctsight_events_seen_total{}[]))`, legend: "seen"}, {expr: `sum(rate(ctsight_events_delivered_total{}[]))`, legend: "delivered"},
				{expr: `sum(rate(ctsight_events_aggregated_total{}[]))`, legend: "aggregated"}}, style: style{min: ptr(0)}},
		{width: 12, kind: "state-timeline", title: "Hooks", unit: "none", tells: "Attached or not. Which there are depends on the kernel and its modules; ctsight doctor says what is missing without one.",
			queries: []query{{expr: `max by (instance, hook) (ctsight_hook_attached{})`, legend: "{{instance}} {{hook}}"}}, style: style{values: map[string]string{"0": "not attached", "1": "attached"}}},
		{width: 6, kind: "timeseries", title: "Runs that the kernel skipped", unit: "cps", tells: "By hook: a program that interrupts itself is not run. Where that loses a record it is stage recursion.",
			queries: []query{{expr: `sum by (hook) (rate(ctsight_hook_missed_total{}[])) > 0`, legend: "{{hook}}"}}, style: style{min: ptr(0), noValue: "none"}},
		{width: 6, kind: "timeseries", title: "Sources with a row", unit: "short", tells: "And how often one lost its row to another, per second: then the lists of who are less exact.",
			queries: []query{{expr: `ctsight_sources_tracked{}`, legend: "{{instance}}"}, {expr: `rate(ctsight_sources_evicted_total{}[])`, legend: "{{instance}} evicted/s"}}, style: style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "CPU of ctsight", unit: "percentunit", tells: "Of one CPU. What the probes cost in the kernel is in docs/bench.md and not here.",
			queries: []query{{expr: `rate(process_cpu_seconds_total{}[]) and on (job, instance) ctsight_build_info`, legend: "{{instance}}"}}, style: style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Memory of ctsight", unit: "bytes", tells: "Resident, and the BPF maps in the kernel.",
			queries: []query{{expr: `process_resident_memory_bytes{} and on (job, instance) ctsight_build_info`, legend: "{{instance}} resident"}, {expr: `ctsight_bpf_map_bytes{}`, legend: "{{instance}} maps"}},
			style:   style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Series left out, configurations refused", unit: "short", tells: "Tables or prefixes that a scrape had no room for; 1 while the last reload of the configuration was refused.",
			queries: []query{{expr: `ctsight_series_omitted{}`, legend: "{{instance}} series"}, {expr: `1 - ctsight_config_last_reload_successful{}`, legend: "{{instance}} refused"}}, style: style{min: ptr(0)}},
		{width: 8, kind: "timeseries", title: "Recordings kept by the flight recorder", unit: "short", tells: "Of the minutes around findings that page and full tables, and how many could not be kept. Which they are is on the page of ctsight on the node.",
			queries: []query{{expr: `ctsight_flight_recorder_kept{}`, legend: "{{instance}}"}, {expr: `increase(ctsight_flight_recorder_omitted_total{}[])`, legend: "{{instance}} not kept"}}, style: style{min: ptr(0), noValue: "off"}},
		{width: 8, kind: "timeseries", title: "Room that recordings take", unit: "bytes", tells: "The ring, which is always written, and what is kept of it.",
			queries: []query{{expr: `ctsight_flight_recorder_bytes{}`, legend: "{{instance}} ring"}, {expr: `ctsight_flight_recorder_kept_bytes{}`, legend: "{{instance}} kept"}}, style: style{min: ptr(0), noValue: "off"}},
		{width: 8, kind: "timeseries", title: "Events that are not recorded", unit: "cps", tells: "For want of room or of a disk that keeps up: a gap says so in the recording. Tracing goes on.",
			queries: []query{{expr: `rate(ctsight_flight_recorder_lost_events_total{}[])`, legend: "{{instance}}"}}, style: style{min: ptr(0), noValue: "off"}},
	}}
}
