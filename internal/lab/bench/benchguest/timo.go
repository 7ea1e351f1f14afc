package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"
)

// listenTimo is the peer most Go programs use, as its documentation shows it,
// with a buffer that is large enough.
func listenTimo() error {
	c, err := conntrack.Dial(nil)
	if err != nil {
		return err
	}
	if err := c.SetReadBuffer(16 << 20); err != nil {
		return err
	}
	events := make(chan conntrack.Event, 1024)
	errs, err := c.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTNew, netfilter.GroupCTDestroy})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	for n := 0; ; {
		select {
		case <-events:
			n++
		case <-stop: // in the words of conntrack(8)
			fmt.Fprintf(os.Stderr, "%d flow events have been shown.\n", n)
			return nil
		case err := <-errs:
			return err
		}
	}
}
