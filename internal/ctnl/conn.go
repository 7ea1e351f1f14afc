// Package ctnl is the netlink view of the connection tracking table: list the
// network namespaces, dump a table without holding it, look up entries, read count, limit and
// the per-CPU statistics, delete entries, and listen to new and destroy events
// where BPF cannot be had. Changes go through ti-mo/conntrack; what that library
// holds in memory, dies of, or does not know (dump, lookups, events, newer statistics)
// speaks nfnetlink on a socket of mdlayher/netlink. It judges nothing, writes no setting, and keeps no state
// between calls; arithmetic over time is the caller's.
package ctnl

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

const (
	// replyTimeout bounds the wait for the kernel's next message. Answers
	// come within the system call that asks, so this is for hung kernels.
	replyTimeout = 5 * time.Second
	// recvSize holds any message the kernel makes: it sizes dumps by the
	// reader's buffer, up to 32 KiB.
	recvSize = 64 << 10
)

// Conn asks one network namespace about its table. Methods may be called from
// several goroutines and run one after the other.
type Conn struct {
	s  *socket
	ns NS

	mu  sync.Mutex
	buf []byte
	// A dump that was left in the middle is still going on in the kernel;
	// unfinished is its sequence number.
	unfinished uint32
	leftover   bool
	lookSeq    uint32 // of the last request of Lookup, which numbers its own
	ask        []byte

	changeMu sync.Mutex // not mu: Close must not wait for a dump
	changer  *conntrack.Conn
}

// Dial opens a Conn in the namespace. Entering another namespace needs
// CAP_SYS_ADMIN at this moment, and only then; requests need CAP_NET_ADMIN.
// The kernel may load nf_conntrack_netlink at the first request, as it does
// for conntrack(8).
func Dial(ns NS) (*Conn, error) {
	s, err := openSocket(ns)
	if err != nil {
		return nil, fmt.Errorf("open ctnetlink: %w", err)
	}
	return &Conn{s: s, ns: ns, buf: make([]byte, recvSize)}, nil
}

// Close ends a call in progress with ErrClosed. It may be called twice.
func (c *Conn) Close() error {
	err := c.s.close()
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	if c.changer != nil {
		err = errors.Join(err, c.changer.Close())
		c.changer = nil
	}
	return err
}

// Cookie returns a number that no other network namespace has had or will have
// since boot, unlike its inode number. 0: the kernel does not tell (before 5.14).
func (c *Conn) Cookie() (cookie uint64) {
	_ = c.s.raw.Control(func(fd uintptr) {
		cookie, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	return cookie
}

// request is one nfnetlink request.
type request struct {
	typ    uint16
	flags  netlink.HeaderFlags
	family uint8
	attrs  []byte
}

// do sends a request and hands each reply to fn until the kernel says that it
// was the last. An error of fn ends it.
func (c *Conn) do(ctx context.Context, r request, fn func(message) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	defer c.cutShort(ctx)()
	if err := c.finish(ctx); err != nil {
		return err
	}
	seq, err := c.s.send(r.typ, r.flags, r.family, r.attrs)
	if err != nil {
		return sentinel(err)
	}
	done, err := c.replies(ctx, seq, fn)
	if !done && r.flags&netlink.Dump == netlink.Dump {
		c.unfinished, c.leftover = seq, true
	}
	return err
}

// cutShort ends a blocked receive when ctx does. The function it returns waits
// until that can no longer happen: a late one would hit the next request.
func (c *Conn) cutShort(ctx context.Context) func() {
	ran := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.s.nl.SetReadDeadline(time.Unix(1, 0))
		close(ran)
	})
	return func() {
		if !stop() {
			<-ran
		}
	}
}

// finish reads away what is left of a dump that was ended early. The kernel
// runs one dump per socket, and a new socket might need privileges that are
// dropped by now.
func (c *Conn) finish(ctx context.Context) error {
	if !c.leftover {
		return nil
	}
	done, err := c.replies(ctx, c.unfinished, func(message) error { return nil })
	if !done && (ctx.Err() != nil || c.s.closed.Load()) {
		return err
	}
	c.leftover = false // done, or nothing more to be had
	return nil
}

// replies reads messages of one request. done says that the kernel has
// nothing more to say about it.
func (c *Conn) replies(ctx context.Context, seq uint32, fn func(message) error) (done bool, err error) {
	deadline := time.Now().Add(replyTimeout)
	interrupted := false
	for {
		b, err := c.recv(ctx, deadline)
		if err != nil {
			return false, err
		}
		for len(b) > 0 {
			m, rest, err := cutMessage(b)
			if err != nil {
				return false, err
			}
			b = rest
			if m.seq != seq { // late answer to an earlier request
				continue
			}
			deadline = time.Now().Add(replyTimeout)
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case m.typ == unix.NLMSG_ERROR, m.typ == unix.NLMSG_DONE:
				err := sentinel(m.errno())
				if err == nil && interrupted {
					err = ErrDumpInterrupted
				}
				return true, err
			case m.typ <= controlTypeMax:
			default:
				if err := fn(m); err != nil {
					return false, err
				}
			}
		}
	}
}

// recv returns one datagram of the kernel, valid until the next recv.
func (c *Conn) recv(ctx context.Context, deadline time.Time) ([]byte, error) {
	for {
		// In this order: a cancel after the check still cuts the read short.
		if err := c.s.nl.SetReadDeadline(deadline); err != nil {
			return nil, c.s.closedOr(err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := c.s.recv(c.buf, true)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, sentinel(err)
		case d.truncated:
			return nil, fmt.Errorf("message over %d bytes: %w", len(c.buf), ErrMalformed)
		case !d.foreign:
			return c.buf[:d.n], nil
		}
	}
}

// Dump calls fn for every entry of the namespace, IPv4 and IPv6, as the kernel
// hands them out; nothing is kept. The Entry is valid during the call and used
// again for the next; fn must not call other methods of c. An error of fn ends
// the dump and is returned.
//
// A dump is no snapshot: entries made or gone meanwhile may be in it or not.
// When the hash table was resized Dump returns ErrDumpInterrupted after the
// last entry. Entries that could not be decoded are left out, and
// ErrMalformed is returned at the end. A dump makes the kernel reap the expired
// entries that it meets.
func (c *Conn) Dump(ctx context.Context, fn func(*Entry) error) error {
	// ctnetlink never sets NLM_F_DUMP_INTR (seen in 5.10 to 7.3), so look at
	// the size of the table, which all namespaces share, before and after.
	buckets, berr := ReadSysctl("nf_conntrack_buckets")
	var e Entry
	var bad int
	var first error
	err := c.do(ctx, request{typ: typeGet, flags: netlink.Dump}, func(m message) error {
		if m.typ != typeNew {
			return nil
		}
		b, _, err := m.body()
		if err == nil {
			err = decodeEntry(b, &e)
		}
		if err != nil {
			if bad++; bad == 1 {
				first = err
			}
			return nil
		}
		return fn(&e)
	})
	switch {
	case err != nil:
		return fmt.Errorf("dump: %w", notLoaded(err))
	case bad > 0:
		return fmt.Errorf("dump: %d entries left out: %w", bad, first)
	case berr == nil:
		if n, err := ReadSysctl("nf_conntrack_buckets"); err == nil && n != buckets {
			return fmt.Errorf("dump: %w", ErrDumpInterrupted)
		}
	}
	return nil
}
