package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// prefixes is 10,000 of them: a megabyte, or 680 kB without a reason.
func prefixes(whole bool) string {
	var b strings.Builder
	b.WriteString("detect:\n  allow:\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "  - prefix: 10.%d.%d.0/24\n    owner: team%d\n    until: 2027-01-02T03:04:05Z\n", i/256, i%256, i%7)
		if whole {
			fmt.Fprintf(&b, "    reason: %s\n", strings.Repeat("x", 20))
		}
	}
	return b.String()
}

func TestPrefixes(t *testing.T) {
	text := prefixes(true)
	l := parse(t, text).Detect.Allow
	if n := len(l); n != 10_000 || l[9999].Prefix.Prefix != netip.MustParsePrefix("10.39.15.0/24") || l[9999].Until.Year() != 2027 {
		t.Error(n, l[9999])
	}
	bad := strings.Replace(text, "10.39.15.0/24", "10.39.15.0/99", 1)
	var where *Error
	if _, err := Parse("c.yml", []byte(bad)); !errors.As(err, &where) || where.Line != 39_999 || where.Column != 13 {
		t.Error(err)
	}
}

// R16 asks for less than 100 ms. Two thirds of it are the YAML library's parser.
func BenchmarkPrefixes(b *testing.B) {
	for _, whole := range []bool{false, true} {
		text := []byte(prefixes(whole))
		b.Run(fmt.Sprintf("%dkB", len(text)/1000), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("c.yml", text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParse is a file with every key that there is.
func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		parse(b, everything)
	}
}
