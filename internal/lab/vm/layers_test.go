package vm

import (
	"slices"
	"testing"
)

func TestParseLdd(t *testing.T) {
	const out = `/usr/sbin/nft:
	linux-vdso.so.1 (0x00007f4a49204000)
	libmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f4a48eec000)
	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f4a48ef4000)
	/lib64/ld-linux-x86-64.so.2 (0x00007f4a49206000)
/usr/bin/jq:
	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2e24c56000)
/bin/static:
	not a dynamic executable
`
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"}
	got, err := parseLdd(out)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := parseLdd("\tlibx.so => not found\n"); err == nil {
		t.Error("a missing library is no error")
	}
}

func TestWantedModule(t *testing.T) {
	for path, want := range map[string]bool{
		"kernel/net/netfilter/nf_conntrack.ko.xz":    true,
		"kernel/drivers/net/veth.ko":                 true,
		"kernel/drivers/net/wireguard/wireguard.ko":  true,
		"kernel/drivers/net/vethernet.ko":            false,
		"kernel/drivers/net/ethernet/intel/e1000.ko": false,
		"kernel/network/x.ko":                        false,
		"modules.builtin.modinfo":                    true,
		"modules.dep":                                false,
	} {
		if got := wantedModule(path); got != want {
			t.Errorf("%s: got %t, want %t", path, got, want)
		}
	}
}
