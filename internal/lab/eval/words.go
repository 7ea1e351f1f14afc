package main

// What the tables mean.
const (
	introduction = `# How well it finds scans

Written by ` + "`make eval`" + `, every row of it, also the bad ones; nothing in the detectors was
tuned to these captures. What the captures are and where they come from is in
` + "`shared/data/README.md`" + ` beside this repository; they are not in it.

A scanner is found when ctsight has **confirmed** a scan by it that is not for
information only: what lists and pagers get. Recall is in three tiers: scanners with at
least 10, 15 and 25 distinct endpoints that failed. Those with fewer than ten count
neither way. Wrong is a benign source, a password guesser or a client that retries that
was called a scanner; a benign source in a network that was called one is wrong too.

## Public captures, ours beside others

A cell has recall for the three tiers, then how many sources were named, then how many
of these are wrong. Precision is of those that count.`

	aboutOthers = `The others are written again from their documentation, defaults and source
(` + "`internal/lab/eval/baseline`" + ` says which), and read the events of conntrack, not packets:

- Zeek's two scripts and the random walk agree with the figures of the design to the
  last alarm (81 and 99 for the walk).
- sfPortscan counts changes of the port, not ports, as its source does: a client that
  goes to and fro between 80 and 443 has more than ten at once. That takes away the
  benign host that the design's figures have for the high level. Neither level sees
  scans of a day: the longest window is ten minutes.
- psad here is as installed: it never forgets (ENABLE_PERSISTENCE) and warns at five
  packets. So it finds every scanner that tries two ports, and every host on which a few
  things fail. The design's figures (.32/.55/.75) have a timeout. It never tells of
  a scan of a single port (PORT_RANGE_SCAN_THRESHOLD).
- The random walk is for TCP and stops at the first verdict: peer-to-peer over UDP it
  does not see, and a source that had four successes first it never looks at again.`

	aboutClasses = `## Ours by class of source

Delays are from the first probe: time, and first contacts that the source had made by
then (median; at worst). Alarms each: findings of a confirmed scan per source that had
one; what goes on is raised again after 10 min, 1 h, 24 h and 7 d, under the same name.
The networks of scanners are tested too: many that try less than ten endpoints each are
found that way.`

	aboutEvents = `## Scans of the Westermo log

Sixteen runs of nmap by one host in ninety minutes. It is one incident, so that only the
first is news; the finding is told again with new numbers when another run adds to
them. This sensor sees little of some runs.`

	aboutPackets = `## Packet captures

Those that no replay was made of, and some that one was made of, read by a model of
conntrack of our own (` + "`internal/lab/pcapct`" + `). Senders are what the name of the file says.`

	aboutMade = `## Made for this: scans

Captures whose truth is known because a generator made them (` + "`internal/lab/eval/synth`" + `), with
twenty hosts beside the scanners of which 5 % of first contacts fail. Delays as above.
In theory: H/((2q-1)W) first contacts for a failing share q, and ten failures, the time
until the last of them is sent; what is filtered is known 3 s later.`

	aboutBenign = `## Made for this: what is no scan

Flagged is how many sources a list or a pager would have got as scanners, even if they were
cleared later. Other alarms are findings of other classes that they would have got, those
apart that the capture is about.

What is not good, and why: whom nobody answers at a port, at many destinations, looks
like a scanner until it comes back. So a poller all of whose targets are dead is one until
its second or third round, pods that are not up yet make their clients one until they are,
and where one port is filtered for good (NTP, passive FTP, all of IPv6) a client that
asks a new address each time stays one. An entry of the allow-list is for those. On the
other side who is answered often at a port can hide a scan of that port among it.
`

	aboutCounts = `## Counts

What a finding of a scan says was refused, unanswered and half open is counted a second
time, from the lines of the capture alone (` + "`counts.go`" + `), each time that one is told again. Left out
are those with failures that were excused, and those that say themselves that they are
not exact: of more than 4,096 contacts with one host or port in a second not all are
looked at.`
)
