package main

import (
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
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
	for n := 0; ; n++ {
		select {
		case <-events:
		case err := <-errs:
			return err
		}
	}
}
