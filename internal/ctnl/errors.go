package ctnl

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Sentinels of this package; compare with errors.Is. The text of each is one
// line for the user, with the remedy where there is one.
var (
	// ErrNotLoaded says that the kernel answers no conntrack request.
	ErrNotLoaded = errors.New("conntrack over netlink is not available in this kernel: modprobe nf_conntrack_netlink")
	// ErrPermission says that the kernel refused for lack of privilege.
	ErrPermission = errors.New("not permitted: needs CAP_NET_ADMIN in the network namespace (CAP_SYS_ADMIN too to enter another one), run as root")
	// ErrDumpInterrupted says that the table was resized during a dump:
	// entries may be missing or come twice. Try again.
	ErrDumpInterrupted = errors.New("the table changed its size during the dump, entries may be missing or double: try again")
	// ErrTimeout says that the kernel did not answer in time.
	ErrTimeout = errors.New("the kernel did not answer in time")
	// ErrMalformed says that a message does not have the form of the
	// kernel's header file.
	ErrMalformed = errors.New("malformed netlink message")
	// ErrNetNSGone says that a path does not lead to the namespace it led to
	// when it was listed.
	ErrNetNSGone = errors.New("the network namespace is gone")
	// ErrNotNetNS says that a path is no network namespace.
	ErrNotNetNS = errors.New("not a network namespace")
	// ErrNotFound says that the table has no such entry.
	ErrNotFound = errors.New("no such entry")
	// ErrExists says that the table has that entry already.
	ErrExists = errors.New("entry exists already")
	// ErrNoEvents says that the kernel was built without conntrack events.
	ErrNoEvents = errors.New("this kernel has no conntrack events (CONFIG_NF_CONNTRACK_EVENTS)")
	// ErrClosed is the normal end of a Conn or Listener.
	ErrClosed = os.ErrClosed
)

// sentinel translates what the system said into the sentinels above, and
// keeps the original for errors.Is.
func sentinel(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w (%w)", ErrPermission, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w (%w)", ErrNotLoaded, err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w (%w)", ErrNotFound, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w (%w)", ErrExists, err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w (%w)", ErrTimeout, err)
	}
	return err
}

// notLoaded is sentinel for requests without attributes: nfnetlink_rcv_msg
// answers EINVAL when no subsystem has registered, and such a request leaves
// nothing else to be invalid.
func notLoaded(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w (%w)", ErrNotLoaded, err)
	}
	return err
}
