package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/netlab"
)

// kind is one kind of traffic.
type kind struct {
	name string
	open func(*netlab.Router) (*road, error)
}

var kinds = []kind{
	{"local", openLocal},       // a program of this machine sends
	{"forward", openForward},   // a gateway passes packets on
	{"masq", openMasquerading}, // and hides their source
}

// road is a way for packets and the namespace whose table they fill.
type road struct {
	ns      *netlab.NS
	tx      int // raw IP or packet socket
	packets [][]byte
	name    []byte // socket address for sendto, if needed
	ctl     int    // NETLINK_NETFILTER, for flushes
	cnt     *os.File
	undo    func() error
}

// openLocal sends through a raw socket: packets enter at LOCAL_OUT, in the
// context of the process.
func openLocal(lab *netlab.Router) (*road, error) {
	r := &road{ns: lab.A}
	err := lab.A.Do(func() (err error) {
		r.tx, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return nil, err
	}
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: dst.As4()}
	r.name = slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4))
	return r, r.finish(nil)
}

// openForward sends frames from the client: they come out of the veth in the
// router and are handled there in a softirq.
func openForward(lab *netlab.Router) (*road, error) {
	r := &road{ns: lab.R}
	err := lab.A.Do(func() (err error) {
		idx, err := ifindex("a0")
		if err != nil {
			return err
		}
		if r.tx, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(r.tx, &unix.SockaddrLinklayer{Ifindex: idx})
	})
	if err != nil {
		return nil, err
	}
	to, err := mac(lab.R, "ra")
	if err != nil {
		return nil, err
	}
	from, err := mac(lab.A, "a0")
	if err != nil {
		return nil, err
	}
	return r, r.finish(append(append(to, from...), 0x08, 0x00))
}

// openMasquerading is the same with NAT to the address of the uplink.
func openMasquerading(lab *netlab.Router) (*road, error) {
	err := lab.R.NFT("table ip benchnat {\n chain post {\n type nat hook postrouting priority 100\n oifname up0 masquerade\n }\n}\n")
	if err != nil {
		return nil, err
	}
	r, err := openForward(lab)
	if err != nil {
		return nil, err
	}
	r.undo = func() error { return lab.R.NFT("delete table ip benchnat") }
	return r, nil
}

var dst = netip.MustParseAddr("10.77.0.1")

// finish builds the packets and opens what the namespace offers.
func (r *road) finish(head []byte) error {
	for i := range measure.Flood {
		src := [4]byte{10, 50, byte(i % 64), 1}
		if i >= measure.Batches*measure.Packets { // what only the flood sends
			src = [4]byte{10, 51, byte(i >> 8), byte(i)}
		}
		p := netlab.Packet{Payload: make([]byte, 32), Tuple: event.Tuple{
			Src: netip.AddrFrom4(src), Dst: dst, Proto: event.ProtoUDP, Sport: uint16(1024 + i), Dport: 53,
		}}
		b, err := p.Append(slices.Clone(head))
		if err != nil {
			return err
		}
		r.packets = append(r.packets, b)
	}
	return r.ns.Do(func() (err error) {
		if r.cnt, err = os.Open("/proc/sys/net/netfilter/nf_conntrack_count"); err != nil {
			return err
		}
		if r.ctl, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		return unix.Bind(r.ctl, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

func (r *road) close() {
	unix.Close(r.tx)
	unix.Close(r.ctl)
	r.cnt.Close()
	if r.undo != nil {
		_ = r.undo()
	}
}

// send sends packets from the first on, one system call each, and writes how
// many instructions each took. All that a packet causes happens in the call.
func (r *road) send(first int, cost []uint64) error {
	var name, namelen uintptr
	if r.name != nil {
		name, namelen = uintptr(unsafe.Pointer(&r.name[0])), uintptr(len(r.name))
	}
	for i := range cost {
		p := r.packets[first+i]
		t := tsc()
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(r.tx), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, name, namelen)
		cost[i] = tsc() - t
		if errno != 0 {
			return fmt.Errorf("send packet %d: %w", first+i, errno)
		}
	}
	return nil
}

// count is nf_conntrack_count of the namespace.
func (r *road) count() int {
	var b [32]byte
	n, _ := unix.Pread(int(r.cnt.Fd()), b[:], 0)
	v, err := strconv.Atoi(strings.TrimSpace(string(b[:max(n, 0)])))
	if err != nil {
		return -1
	}
	return v
}

// typeDelete is IPCTNL_MSG_CT_DELETE, asked for or told of.
const typeDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

// flushSend asks the kernel to remove all entries; it does so in the call.
func (r *road) flushSend() error {
	var m [20]byte
	binary.NativeEndian.PutUint32(m[0:], uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], typeDelete)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(r.ctl), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("flush: %w", errno)
	}
	return nil
}

func (r *road) flushAck() error {
	var b [256]byte
	if n, _, err := unix.Recvfrom(r.ctl, b[:], 0); err != nil {
		return fmt.Errorf("flush: %w", err)
	} else if n < 20 || binary.NativeEndian.Uint32(b[16:]) != 0 {
		return fmt.Errorf("flush: answer %x", b[:n])
	}
	return nil
}

func (r *road) flush() error { return errors.Join(r.flushSend(), r.flushAck()) }

// emptyFlush is the cost of walking an empty table.
func (r *road) emptyFlush() uint64 {
	best := ^uint64(0)
	for range 8 {
		nap(5)
		t := tsc()
		if r.flushSend() != nil {
			return 0
		}
		best = min(best, tsc()-t)
		if r.flushAck() != nil {
			return 0
		}
	}
	return best
}

// timeout sets the timeout of UDP entries in seconds.
func (r *road) timeout(sec int) error {
	return r.ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte(strconv.Itoa(sec)), 0)
	})
}

func ifindex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	return int(ifr.Uint32()), err
}

func mac(ns *netlab.NS, dev string) ([]byte, error) {
	out, err := ns.Run("ip", "-o", "link", "show", "dev", dev)
	if err != nil {
		return nil, err
	}
	f := strings.Fields(out)
	i := slices.Index(f, "link/ether")
	if i < 0 || i+1 >= len(f) {
		return nil, fmt.Errorf("no hardware address of %s in %q", dev, out)
	}
	m := make([]byte, 6)
	_, err = fmt.Sscanf(f[i+1], "%02x:%02x:%02x:%02x:%02x:%02x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5])
	return m, err
}
