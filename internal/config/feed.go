package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Detect is what detection knows of the operator's network.
type Detect struct {
	Allow []Allow `yaml:"allow" reload:"live"`
}

// Allow is a prefix that is neither blocked nor paged, who answers for that, and
// until when.
type Allow struct {
	Prefix Prefix `yaml:"prefix"`
	Owner  string `yaml:"owner" check:"words"`
	Until  Until  `yaml:"until"`
	Reason string `yaml:"reason" check:"words"`
}

// Feed is where findings go.
type Feed struct {
	File   string `yaml:"file" flag:"feed" check:"file"` // "" for none, - is standard output
	Format string `yaml:"format" flag:"feed-format" check:"feed"`
	// Blocklist serves the sources that may be blocked at /blocklist.
	Blocklist bool `yaml:"blocklist" reload:"live"`
	NFT       NFT  `yaml:"nft"`
	NATS      NATS `yaml:"nats"`
}

// NFT is our own nftables table.
type NFT struct {
	Enable bool   `yaml:"enable" flag:"feed-nft" reload:"live"`
	DryRun bool   `yaml:"dry_run" reload:"live"` // print what would be loaded
	Hook   string `yaml:"hook" check:"hook" reload:"live"`
	Action string `yaml:"action" check:"action" reload:"live"`
}

// NATS is a JetStream of a NATS server.
type NATS struct {
	URL             string    `yaml:"url" check:"nats"` // "" for none
	Subject         string    `yaml:"subject" check:"subject"`
	CredentialsFile string    `yaml:"credentials_file" check:"file"`
	BasicAuth       BasicAuth `yaml:"basic_auth"`
	TLS             TLS       `yaml:"tls"`
}

// Prefix is a prefix, or an address as the prefix that has nothing else.
type Prefix struct{ netip.Prefix }

// UnmarshalText takes 198.51.100.0/24, 2001:db8::/32, 198.51.100.7.
func (p *Prefix) UnmarshalText(text []byte) error {
	s := string(text)
	out, err := netip.ParsePrefix(s)
	if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
		out, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("expected a prefix such as 198.51.100.0/24, or an address, not %s", show(s))
	case out.Addr().Is4In6():
		return fmt.Errorf("%s is IPv4 within IPv6: write the IPv4 address", show(s))
	case out != out.Masked():
		return fmt.Errorf("%s has bits behind its length: %s, or %s", show(s), out.Masked(), out.Addr())
	}
	p.Prefix = out
	return nil
}

// Until is when something ends: the zero time is never, which has to be written.
type Until struct {
	time.Time
	Given bool
}

// UnmarshalText takes a day, which is its end in UTC, a time, or the word never.
func (u *Until) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "never" {
		*u = Until{Given: true}
		return nil
	}
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		*u = Until{day.AddDate(0, 0, 1), true}
		return nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("expected a day such as 2027-01-31, a time such as 2027-01-31T08:00:00Z, or never, not %s", show(s))
	}
	*u = Until{at.UTC(), true}
	return nil
}

func (a *Allow) check() (key, text string) {
	switch {
	case !a.Prefix.IsValid():
		return "", "detect.allow: an entry without prefix: add it"
	case a.Owner == "":
		return "", "detect.allow: an entry without owner: say who answers for it"
	case !a.Until.Given:
		return "", "detect.allow: an entry without until: a day such as 2027-01-31, or never"
	}
	return "", ""
}

// maxAllowed bounds the allow list; the file has a bound of its own.
const maxAllowed = 1 << 16

// checkAllow checks the allow list as a whole and returns what is wrong.
func checkAllow(path string, l []Allow) string {
	if len(l) > maxAllowed {
		return fmt.Sprintf("%s: %d are too many, at most %d", path, len(l), maxAllowed)
	}
	seen := make(map[netip.Prefix]bool, len(l))
	for _, a := range l {
		if seen[a.Prefix.Prefix] && a.Prefix.IsValid() {
			return fmt.Sprintf("%s: %s is there twice: remove one", path, a.Prefix)
		}
		seen[a.Prefix.Prefix] = true
	}
	return ""
}

func (f *Feed) check() (key, text string) {
	if f.File == "-" && f.NFT.DryRun {
		return "file", "feed.file: the dry run of nft writes to standard output too: name a file"
	}
	return "", ""
}

func (n *NATS) check() (key, text string) {
	secret := n.BasicAuth != BasicAuth{} || n.CredentialsFile != ""
	switch {
	case n.URL == "" && (secret || n.TLS != TLS{}):
		return "", "feed.nats: no url: add it"
	case n.BasicAuth != BasicAuth{} && n.CredentialsFile != "":
		return "credentials_file", "feed.nats: basic_auth or credentials_file, not both: remove one"
	case n.TLS != TLS{} && !strings.HasPrefix(n.URL, "tls:"):
		return "tls", "feed.nats.tls: the url is not tls: change one of them"
	case secret && n.TLS.InsecureSkipVerify:
		return "tls", "feed.nats.tls: a password or key would go to a server nobody has verified: name its ca_file"
	}
	return "", ""
}

// words keeps sentences of the operator on one line; that they are printable the
// reader of the file has seen to.
func words(v any) error {
	if s := v.(string); strings.ContainsAny(s, "\n\r\t") || len(s) > 200 {
		return errors.New("expected one line of at most 200 bytes")
	}
	return nil
}

func natsServer(v any) error {
	u, err := url.Parse(v.(string))
	switch {
	case v.(string) == "":
		return nil
	case err != nil || u.Hostname() == "" || u.Port() == "" || (u.Scheme != "nats" && u.Scheme != "tls") || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "":
		// Not quoted: it may have a password in it.
		return errors.New("expected an address such as nats://host:4222 or tls://host:4222")
	case u.User != nil:
		return errors.New("no user and password in an address: use credentials_file or basic_auth")
	}
	return nil
}

// subject takes what one may publish to: tokens with dots between them, no wildcards.
func subject(v any) error {
	s := v.(string)
	for _, token := range strings.Split(s, ".") {
		if token == "" || strings.ContainsAny(token, "*> \t\r\n") || token[0] == '$' || len(s) > 128 {
			return fmt.Errorf("%s: expected a subject such as ctsight.findings", show(s))
		}
	}
	return nil
}
