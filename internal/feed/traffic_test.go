package feed

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/netlab"
)

// Real connections: who is blocked cannot make new ones, by either family, and keeps
// those he has; who is allowed, and everybody else, is not touched.
func TestTraffic(t *testing.T) {
	r, err := netlab.NewRouter(netlab.Options{ClientNets: prefixes("198.51.100.0/24", "2001:db8:0:1::/64", "2001:db8:0:2::/64")})
	if errors.Is(err, netlab.ErrPrivilege) {
		t.Skip("network namespaces need root")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	serve := func(a netip.Addr) string {
		s, err := r.ServeTCP(netip.AddrPortFrom(a, 443))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s.Addr().String()
	}
	servers := map[bool]string{false: serve(netlab.ServerV4), true: serve(netlab.ServerV6)}
	dial := func(from string, wait time.Duration) (c net.Conn, err error) {
		a := netip.MustParseAddr(from)
		err = r.A.Do(func() error {
			d := net.Dialer{Timeout: wait, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))}
			c, err = d.Dial("tcp", servers[a.Is6()])
			return err
		})
		return c, err
	}
	echo := func(c net.Conn) error {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	const bad4, bad6 = "198.51.100.7", "2001:db8:0:1::7"
	var old []net.Conn
	for _, from := range []string{bad4, bad6} {
		c, err := dial(from, 30*time.Second)
		if err == nil {
			err = echo(c)
		}
		if err != nil {
			t.Fatalf("the lab is wrong: %s: %v", from, err)
		}
		defer c.Close()
		old = append(old, c)
	}

	var table *Table
	if err := r.R.Do(func() (err error) { table, err = NewTable(r.R.FD()); return err }); err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	now := time.Now()
	rules := &Ruleset{Hook: "prerouting", Action: "drop", Allow: prefixes("198.51.100.9", "2001:db8:0:1::9"),
		Block: listed(now.Add(time.Hour), bad4, "198.51.100.9", "2001:db8:0:1::/64")}
	for _, hook := range []string{"prerouting", "forward"} {
		rules.Hook = hook
		if _, err := table.Sync(rules, now); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{bad4, bad6, "2001:db8:0:1::8"} {
			if c, err := dial(from, 300*time.Millisecond); err == nil {
				c.Close()
				t.Errorf("%s: %s gets through", hook, from)
			}
		}
		for _, from := range []string{"198.51.100.8", "198.51.100.9", "2001:db8:0:1::9", "2001:db8:0:2::7"} {
			c, err := dial(from, 30*time.Second)
			if err != nil {
				t.Errorf("%s: %s is blocked: %v", hook, from, err)
				continue
			}
			c.Close()
		}
		for _, c := range old {
			if err := echo(c); err != nil {
				t.Errorf("%s: the old connection of %v: %v", hook, c.LocalAddr(), err)
			}
		}
	}
	rules.Action = "count"
	if _, err := table.Sync(rules, now); err != nil {
		t.Fatal(err)
	}
	c, err := dial(bad4, 30*time.Second)
	if err != nil {
		t.Fatalf("counted only, but blocked: %v", err)
	}
	c.Close()
	if out := (place{t, r.R}).nft("list", "chain", "inet", "ctsight", "block"); !matches(out, `@block4 counter packets [1-9]`) {
		t.Errorf("not counted:\n%s", out)
	}
	// A list that has nobody is no table.
	rules.Block = nil
	if _, err := table.Sync(rules, now); err != nil {
		t.Fatal(err)
	}
	if c, err = dial(bad6, 30*time.Second); err != nil {
		t.Fatalf("still blocked: %v", err)
	}
	c.Close()
}
