package relief

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

// kind is what a sysctl is, and so what its values may be.
type kind uint8

const (
	limit   kind = iota + 1 // entries; one for all namespaces, written in the initial one
	hash                    // buckets; likewise
	timeout                 // seconds
	flag                    // 0 or 1
	small                   // 0 to 255
)

// prefix is what all names begin with; those in known leave it out.
const prefix = "nf_conntrack_"

// known are the sysctls that may be changed: nf_ct_sysctl_table of
// net/netfilter/nf_conntrack_standalone.c, from 5.10 to 7.x, without what only reads
// (count), what changes how large entries are (acct, timestamp, events, helper,
// expect_max) and what lets broken packets in (checksum).
var known = map[string]kind{
	"max": limit, "buckets": hash,
	"generic_timeout":      timeout,
	"tcp_timeout_syn_sent": timeout, "tcp_timeout_syn_recv": timeout, "tcp_timeout_established": timeout,
	"tcp_timeout_fin_wait": timeout, "tcp_timeout_close_wait": timeout, "tcp_timeout_last_ack": timeout,
	"tcp_timeout_time_wait": timeout, "tcp_timeout_close": timeout, "tcp_timeout_max_retrans": timeout,
	"tcp_timeout_unacknowledged": timeout,
	"udp_timeout":                timeout, "udp_timeout_stream": timeout, "icmp_timeout": timeout, "icmpv6_timeout": timeout,
	"gre_timeout": timeout, "gre_timeout_stream": timeout,
	"sctp_timeout_closed": timeout, "sctp_timeout_cookie_wait": timeout, "sctp_timeout_cookie_echoed": timeout,
	"sctp_timeout_established": timeout, "sctp_timeout_shutdown_sent": timeout, "sctp_timeout_shutdown_recd": timeout,
	"sctp_timeout_shutdown_ack_sent": timeout, "sctp_timeout_heartbeat_sent": timeout, "sctp_timeout_heartbeat_acked": timeout,
	"dccp_timeout_request": timeout, "dccp_timeout_respond": timeout, "dccp_timeout_partopen": timeout, "dccp_timeout_open": timeout,
	"dccp_timeout_closereq": timeout, "dccp_timeout_closing": timeout, "dccp_timeout_timewait": timeout,
	"tcp_loose": flag, "tcp_be_liberal": flag, "tcp_ignore_invalid_rst": flag, "dccp_loose": flag,
	"tcp_max_retrans": small, "log_invalid": small,
}

// maxTimeout keeps a timeout in jiffies, at up to 1000 a second, within the kernel's int.
const maxTimeout = math.MaxInt32 / 1000

// Ask is a sysctl and the value that it shall have.
type Ask struct {
	Sysctl string // nf_conntrack_...
	Value  uint64
}

// ErrUsage marks what was asked for in the wrong way.
var ErrUsage = errors.New("relief")

func usage(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUsage, fmt.Errorf(format, args...))
}

// ParseAsk reads nf_conntrack_max=524288. net.netfilter. and nf_conntrack_ may be left out.
func ParseAsk(s string) (Ask, error) {
	name, text, ok := strings.Cut(s, "=")
	if !ok {
		return Ask{}, usage("%q: expected a sysctl and its value, as nf_conntrack_max=524288", s)
	}
	name, err := Canonical(name)
	if err != nil {
		return Ask{}, err
	}
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return Ask{}, usage("%s=%s: expected a whole number, timeouts in seconds", name, strconv.Quote(text))
	}
	a := Ask{name, v}
	return a, a.check()
}

// Canonical is the whole name of a sysctl that may be changed.
func Canonical(name string) (string, error) {
	short := strings.TrimPrefix(strings.ReplaceAll(name, "/", "."), "net.")
	short = strings.TrimPrefix(strings.TrimPrefix(short, "netfilter."), prefix)
	if known[short] == 0 {
		return "", usage("%q is no sysctl that relief changes: nf_conntrack_max, nf_conntrack_buckets, a timeout such as nf_conntrack_udp_timeout, tcp_loose, tcp_be_liberal, tcp_max_retrans or log_invalid; others with sysctl -w", name)
	}
	return prefix + short, nil
}

func kindOf(sysctl string) kind { return known[strings.TrimPrefix(sysctl, prefix)] }

// global says whether a sysctl is one for all namespaces.
func global(sysctl string) bool { return kindOf(sysctl) == limit || kindOf(sysctl) == hash }

// check says what is wrong with a value, whatever the present one is.
func (a Ask) check() error {
	least, most := uint64(1), uint64(maxTimeout)
	switch kindOf(a.Sysctl) {
	case limit, hash:
		most = math.MaxInt32
	case flag:
		least, most = 0, 1
	case small:
		least, most = 0, 255
	}
	if a.Value < least || a.Value > most {
		return usage("%s=%d: from %d to %d", a.Sysctl, a.Value, least, most)
	}
	return nil
}

// rounded is the value that the kernel will have: nf_conntrack_hash_resize fills whole
// pages with buckets of 8 bytes.
func (a Ask) rounded() Ask {
	if kindOf(a.Sysctl) == hash {
		page := uint64(os.Getpagesize() / 8)
		a.Value = (a.Value + page - 1) / page * page
	}
	return a
}
