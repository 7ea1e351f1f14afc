package feed

import (
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Ruleset is what our table of nftables should have.
type Ruleset struct {
	Hook   string         // prerouting, input, forward
	Action string         // drop, count
	Allow  []netip.Prefix // as Allow.Prefixes returns them
	Block  []Listed       // as List.Entries returns them
}

// TableName is the table of the family inet that is ours, and all of it that is.
const TableName = "ctsight"

const chainName = "block"

// lease is how long the kernel keeps an element that nobody renews: whoever ends without
// a word blocks nobody for longer.
const lease = 10 * time.Minute

// setKind is one of the sets. Addresses have a set of their own, since a set that takes
// prefixes may have none within another.
type setKind struct {
	name string
	v6   bool
	net  bool // takes prefixes
	pass bool // who is in it is let through
}

var setKinds = []setKind{
	{"allow4", false, true, true}, {"allow6", true, true, true},
	{"block4", false, false, false}, {"block6", true, false, false},
	{"block4_nets", false, true, false}, {"block6_nets", true, true, false},
}

// takes says whether a prefix belongs into a set, of those that pass or those that do not.
func (k setKind) takes(p netip.Prefix, pass bool) bool {
	return k.pass == pass && k.v6 == p.Addr().Is6() && (k.net == !p.IsSingleIP() || pass)
}

// blockKind is the index of the set that blocks a prefix.
func blockKind(p netip.Prefix) int {
	return slices.IndexFunc(setKinds, func(k setKind) bool { return k.takes(p, false) })
}

// priority comes after conntrack, whose state the rules ask for, and before anybody's
// filter and destination NAT.
func priority(hook string) int {
	if hook == "prerouting" {
		return -110
	}
	return -10
}

// elements are what the kernel is to have, and when it forgets it.
func (r *Ruleset) elements(now time.Time) map[netip.Prefix]time.Time {
	out := make(map[netip.Prefix]time.Time, len(r.Block))
	var last netip.Prefix // of those that are no address
	for _, e := range r.sorted() {
		end := e.Expires
		if far := now.Add(lease); end.After(far) {
			end = far
		}
		if !end.After(now) {
			continue
		}
		if !e.Prefix.IsSingleIP() {
			if last.IsValid() && last.Overlaps(e.Prefix) {
				continue // until the wider one has gone
			}
			last = e.Prefix
		}
		out[e.Prefix] = end
	}
	return out
}

func (r *Ruleset) sorted() []Listed {
	return slices.SortedFunc(slices.Values(r.Block), func(a, b Listed) int { return a.Prefix.Compare(b.Prefix) })
}

// Text is the ruleset as `nft -f` reads it, in place of the one that is there.
func (r *Ruleset) Text(now time.Time) []byte {
	b := []byte("add table inet ctsight\ndelete table inet ctsight\ntable inet ctsight {\n")
	have := r.elements(now)
	for _, k := range setKinds {
		b = r.appendSet(b, k, have, now)
	}
	b = append(b, "\tchain "+chainName+" {\n\t\ttype filter hook "+r.Hook+" priority "+strconv.Itoa(priority(r.Hook))+"; policy accept;\n"...)
	for _, k := range setKinds {
		b = append(b, "\t\t"+r.ruleText(k)+"\n"...)
	}
	return append(b, "\t}\n}\n"...)
}

func (r *Ruleset) ruleText(k setKind) string {
	from := "ip saddr @" + k.name
	if k.v6 {
		from = "ip6 saddr @" + k.name
	}
	switch {
	case k.pass:
		return from + " return"
	case r.Action == "count":
		return "ct state new " + from + " counter"
	}
	return "ct state new " + from + " counter drop"
}

func (r *Ruleset) appendSet(b []byte, k setKind, have map[netip.Prefix]time.Time, now time.Time) []byte {
	b = append(b, "\tset "+k.name+" {\n\t\ttype "+k.typeName()+"\n"...)
	switch {
	case k.pass:
		b = append(b, "\t\tflags interval\n"...)
	case k.net:
		b = append(b, "\t\tflags interval,timeout\n"...)
	default:
		b = append(b, "\t\tflags timeout\n"...)
	}
	before := "\t\telements = { "
	put := func(p netip.Prefix, suffix string) {
		b = append(b, before...)
		before = ",\n\t\t\t     "
		b = append(append(b, elementText(p)...), suffix...)
	}
	if k.pass {
		for _, p := range r.Allow {
			if k.takes(p, true) {
				put(p, "")
			}
		}
	} else {
		for _, p := range inOrder(have) {
			if k.takes(p, false) {
				put(p, " timeout "+strconv.FormatInt(int64(seconds(have[p].Sub(now))), 10)+"s")
			}
		}
	}
	if before[0] == ',' {
		b = append(b, " }\n"...)
	}
	return append(b, "\t}\n"...)
}

func (k setKind) typeName() string {
	if k.v6 {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

func elementText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// seconds are whole ones, at least one: 0 would be for ever.
func seconds(d time.Duration) int64 { return max(1, int64(d/time.Second)) }

func inOrder[V any](m map[netip.Prefix]V) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(m))
	for p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}
