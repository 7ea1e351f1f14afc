package agg

import (
	"net/netip"
	"testing"
	"time"
)

// One doubt is enough: a finding that may be listed is not with any one thing changed.
func TestUnlisted(t *testing.T) {
	now := time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)
	prefix := func(s string) func(*Finding) {
		return func(f *Finding) { f.Source = netip.MustParsePrefix(s) }
	}
	good := func() *Finding {
		return &Finding{ID: "1", Class: "scan", State: Confirmed, Severity: Feed, Source: netip.MustParsePrefix("198.51.100.7/32"), Expires: now.Add(time.Second)}
	}
	for name, change := range map[string]func(*Finding){
		"as it is": func(*Finding) {}, "page": func(f *Finding) { f.Severity = Page }, "flood": func(f *Finding) { f.Class = "syn_flood" },
		"v6": prefix("2001:db8::1/128"), "/64": prefix("2001:db8::/64"), "/65": prefix("2001:db8::/65"),
		"mapped": prefix("::ffff:198.51.100.7/128"), "private": prefix("10.0.0.7/32"),
	} {
		f := good()
		change(f)
		if why := f.Unlisted(now); why != "" {
			t.Errorf("%s: %s", name, why)
		}
	}
	for name, change := range map[string]func(*Finding){
		"suspect": func(f *Finding) { f.State = Suspect }, "cleared": func(f *Finding) { f.State = Cleared }, "no state": func(f *Finding) { f.State = "" },
		"no source": func(f *Finding) { f.Source = netip.Prefix{} }, "spoofable": func(f *Finding) { f.Spoofable = true },
		"suppress": func(f *Finding) { f.Suppress = "x" }, "info": func(f *Finding) { f.Severity = Info }, "no severity": func(f *Finding) { f.Severity = "" },
		"leak": func(f *Finding) { f.Class = "connection_leak" }, "reflector": func(f *Finding) { f.Class = "amplification" }, "unknown": func(f *Finding) { f.Class = "x" },
		"no end": func(f *Finding) { f.Expires = time.Time{} }, "now": func(f *Finding) { f.Expires = now }, "past": func(f *Finding) { f.Expires = now.Add(-1) },
		"/31": prefix("198.51.100.0/31"), "/24": prefix("198.51.100.0/24"), "/0": prefix("0.0.0.0/0"), "v6 /63": prefix("2001:db8::/63"), "v6 /48": prefix("2001:db8::/48"), "v6 /0": prefix("::/0"),
		"mapped /0": prefix("::ffff:0.0.0.0/96"), "wider than mapped": prefix("::ffff:0.0.0.0/64"), "mapped /31": prefix("::ffff:198.51.100.0/127"),
		"loopback": prefix("127.0.0.1/32"), "v6 loopback": prefix("::1/128"), "mapped loopback": prefix("::ffff:127.0.0.1/128"),
		"any": prefix("0.0.0.0/32"), "v6 any": prefix("::/128"), "link-local": prefix("fe80::1/128"), "169.254": prefix("169.254.1.1/32"),
		"multicast": prefix("224.0.0.251/32"), "v6 multicast": prefix("ff02::1/128"), "broadcast": prefix("255.255.255.255/32"),
	} {
		f := good()
		change(f)
		if f.Unlisted(now) == "" {
			t.Errorf("%s is listed", name)
		}
	}
}
