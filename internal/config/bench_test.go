package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// allowList stands for the longest lists that are to come: prefixes with an owner
// and an end.
type allowList struct {
	Allow []struct {
		Prefix  netip.Prefix `yaml:"prefix"`
		Owner   string       `yaml:"owner"`
		Expires time.Time    `yaml:"expires"`
		Reason  string       `yaml:"reason"`
	} `yaml:"allow"`
}

// prefixes is 10,000 of them: a megabyte, or 300 kB with nothing but the prefix.
func prefixes(whole bool) string {
	var b strings.Builder
	b.WriteString("allow:\n")
	for i := range 10_000 {
		fmt.Fprintf(&b, "- prefix: 10.%d.%d.0/24\n", i/256, i%256)
		if whole {
			fmt.Fprintf(&b, "  owner: team%d\n  expires: 2027-01-02T03:04:05Z\n  reason: %s\n", i%7, strings.Repeat("x", 20))
		}
	}
	return b.String()
}

func TestPrefixes(t *testing.T) {
	text := prefixes(true)
	var l allowList
	d := &decoder{file: "c.yml"}
	if err := d.decode([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	if n := len(l.Allow); n != 10_000 || l.Allow[9999].Prefix != netip.MustParsePrefix("10.39.15.0/24") || l.Allow[9999].Expires.Year() != 2027 {
		t.Error(n, l.Allow[9999])
	}
	bad := strings.Replace(text, "10.39.15.0/24", "10.39.15.0/99", 1)
	var where *Error
	if err := (&decoder{file: "c.yml"}).decode([]byte(bad), &l); !errors.As(err, &where) || where.Line != 39_998 || where.Column != 11 {
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
				var l allowList
				if err := (&decoder{file: "c.yml"}).decode(text, &l); err != nil {
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
