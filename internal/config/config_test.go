package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ctsight/ctsight/internal/probe"
)

// everything says every key once.
const everything = `
backend: kprobe
netns: 4026531840
web:
  listen: [":80", "[::1]:9781", unix:/run/ctsight.sock]
  config_file: web.yml
  telemetry_path: /m
  max_connections: 10
  enable_reload: false
metrics: {top_prefixes: 5}
limits: {sources: 2048, live: 0x1000, memory: 512MiB}
remote_write:
  - url: https://h/write
    interval: 1m
    external_labels: {dc: 1, instance: "a b"}
    basic_auth: {username: u, password_file: /etc/pw}
    tls: {ca_file: ca.pem}
  - url: http://h/two
    bearer_token_file: token
detect:
  allow:
    - {prefix: 198.51.100.0/24, owner: netops, until: 2027-01-31, reason: "scanner of ours, ticket 7"}
    - {prefix: "2001:db8::7", owner: netops, until: "2027-01-31T08:00:00+02:00"}
    - {prefix: 10.0.0.0/8, owner: "us all", until: never}
feed:
  file: findings.json
  format: eve
  blocklist: false
  nft: {enable: true, dry_run: true, hook: input, action: count}
  nats:
    url: tls://h:4222
    subject: a.b
    credentials_file: my.creds
    tls: {ca_file: ca.pem}
flight: {dir: ring, size: 2G, age: 36h, kept: 512MiB, before: 10m, after: 1m}
relief: {dir: /x/relief}
sandbox: {capabilities: keep, landlock: off}
cri: {socket: /run/cri.sock}
log: {level: debug, format: json}
`

// comparable lets prefixes be compared.
var comparable = cmpopts.EquateComparable(netip.Prefix{})

func parse(t testing.TB, text string) *Config {
	t.Helper()
	c, err := Parse("/etc/ctsight/c.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseEverything(t *testing.T) {
	want := &Config{
		Backend: "kprobe",
		NetNS:   "4026531840",
		Web:     Web{Listen: []string{":80", "[::1]:9781", "unix:/run/ctsight.sock"}, ConfigFile: "/etc/ctsight/web.yml", TelemetryPath: "/m", MaxConnections: 10},
		Metrics: Metrics{TopPrefixes: 5},
		Limits:  Limits{Sources: 2048, Live: 4096, Memory: 512 << 20},
		RemoteWrite: []RemoteWrite{{
			URL: "https://h/write", Interval: time.Minute, ExternalLabels: map[string]string{"dc": "1", "instance": "a b"},
			BasicAuth: BasicAuth{Username: "u", PasswordFile: "/etc/pw"}, TLS: TLS{CAFile: "/etc/ctsight/ca.pem"},
		}, {URL: "http://h/two", Interval: 15 * time.Second, BearerTokenFile: "/etc/ctsight/token"}},
		Detect: Detect{Allow: []Allow{
			{Prefix{netip.MustParsePrefix("198.51.100.0/24")}, "netops", Until{time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC), true}, "scanner of ours, ticket 7"},
			{Prefix{netip.MustParsePrefix("2001:db8::7/128")}, "netops", Until{time.Date(2027, 1, 31, 6, 0, 0, 0, time.UTC), true}, ""},
			{Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "us all", Until{Given: true}, ""},
		}},
		Feed: Feed{File: "/etc/ctsight/findings.json", Format: "eve", NFT: NFT{true, true, "input", "count"},
			NATS: NATS{URL: "tls://h:4222", Subject: "a.b", CredentialsFile: "/etc/ctsight/my.creds", TLS: TLS{CAFile: "/etc/ctsight/ca.pem"}}},
		Flight:  Flight{"/etc/ctsight/ring", 2 << 30, 36 * time.Hour, 512 << 20, 10 * time.Minute, time.Minute},
		Relief:  Relief{Dir: "/x/relief"},
		Sandbox: Sandbox{Capabilities: "keep", Landlock: "off"},
		CRI:     CRI{Socket: "/run/cri.sock"},
		Log:     Log{Level: "debug", Format: "json"},
	}
	got := parse(t, everything)
	if d := cmp.Diff(want, got, comparable); d != "" {
		t.Error(d)
	}
	files := []string{"/etc/ctsight/web.yml", "/etc/pw", "/etc/ctsight/ca.pem", "/etc/ctsight/token", "/etc/ctsight/my.creds", "/etc/ctsight/ca.pem"}
	if d := cmp.Diff(files, got.Files()); d != "" {
		t.Error(d)
	}
}

func TestParseSaysNothing(t *testing.T) {
	for _, text := range []string{"", "\n", "# only this\n", "---\n", "\xef\xbb\xbf", "null\n", "{}", "web:\n  listen:\n  # - :80\nlimits:\n", "\xef\xbb\xbf---\r\nlog:\r\n"} {
		if d := cmp.Diff(Default(), parse(t, text)); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const rw = "remote_write:\n- url: https://h/w\n  "
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "log: {}\nwebb:\n", `2:1: unknown key "webb": the file takes backend, netns, web, metrics, limits, remote_write, detect, feed, flight, relief, sandbox, cri, log`},
		{"unknown key below", "web:\n  listen: [':1']\n  lsiten: 1\n", `3:3: unknown key "lsiten": web takes listen, config_file, telemetry_path, max_connections, enable_reload`},
		{"unknown key in a list", rw + "usr: x\n", `3:3: unknown key "usr": remote_write takes url, interval, external_labels, basic_auth, bearer_token_file, tls`},
		{"twice", "log: {}\ncri: {}\nlog: {}\n", `3:1: key "log" is there twice, first in line 1: remove one`},
		{"label twice", rw + "external_labels: {a: x, a: y}\n", `3:27: key "a" is there twice, first in line 3: remove one`},
		{"list for text", "backend: [a]\n", `1:10: backend: expected a text, not a list`},
		{"keys for list", "web:\n  listen: {a: b}\n", `2:11: web.listen: expected a list (lines that begin with a dash), not keys`},
		{"text for list", "web:\n  listen: ':80'\n", `2:11: web.listen: expected a list (lines that begin with a dash), not ":80"`},
		{"text for keys", "web: yes\n", `1:6: web: expected keys (listen, config_file, telemetry_path, max_connections, enable_reload), not "yes"`},
		{"a list", "- a\n", `1:1: the file: expected keys (backend, netns, web, metrics, limits, remote_write, detect, feed, flight, relief, sandbox, cri, log), not a list`},
		{"quoted number", "metrics: {top_prefixes: '5'}\n", `1:25: metrics.top_prefixes: expected a whole number, not "5"`},
		{"fraction", "metrics: {top_prefixes: 1.5}\n", `1:25: metrics.top_prefixes: expected a whole number, not "1.5"`},
		{"too large a number", "limits: {live: 99999999999999999999}\n", `1:16: limits.live: expected a whole number, not "99999999999999999999"`},
		{"out of range", "limits: {sources: 3}\n", `1:19: limits.sources: 3 is not within 1024 and 4194304`},
		{"old boolean", "web: {enable_reload: yes}\n", `1:22: web.enable_reload: expected true or false, not "yes"`},
		{"backend", "backend: ebpf\n", `1:10: backend: expected auto, fentry, kprobe, netfilter, netlink, not "ebpf"`},
		{"no port", "web: {listen: [localhost]}\n", `1:16: web.listen: "localhost": expected host:port or :port with a number for the port (IPv6 in brackets), or unix:/path`},
		{"port name", "web: {listen: [':http']}\n", `1:16: web.listen: ":http": expected host:port or :port with a number for the port (IPv6 in brackets), or unix:/path`},
		{"port number", "web: {listen: [':65536']}\n", `1:16: web.listen: ":65536": expected host:port or :port with a number for the port (IPv6 in brackets), or unix:/path`},
		{"relative socket", "web: {listen: ['unix:a']}\n", `1:16: web.listen: "unix:a": expected unix:/path with a whole path`},
		{"nowhere to listen", "web: {listen: []}\n", `1:15: web.listen: an empty list: name at least one, or leave the key out`},
		{"listen twice", "web: {listen: [':1', ':1']}\n", `1:15: web.listen: ":1" is there twice: remove one`},
		{"empty element", "web:\n  listen:\n  -\n  - :80\n", `3:4: web.listen: an empty element: remove the dash`},
		{"path", "web: {telemetry_path: metrics}\n", `1:23: web.telemetry_path: "metrics": expected a plain path such as /metrics`},
		{"query", "web: {telemetry_path: '/m?x'}\n", `1:23: web.telemetry_path: "/m?x": expected a plain path such as /metrics`},
		{"path of the page", "web: {telemetry_path: /api/v1/top}\n", `1:23: web.telemetry_path: "/api/v1/top" is taken by the page or the API: use another path, such as /metrics`},
		{"memory", "limits: {memory: 5 apples}\n", `1:18: limits.memory: expected an amount such as 512MiB or 2GiB, not "5 apples"`},
		{"little memory", "limits: {memory: 1MiB}\n", `1:18: limits.memory: 1MiB is too little, at least 64MiB; leave it out for no limit`},
		{"memory that overflows", "limits: {memory: 9223372036854775807KiB}\n", `1:18: limits.memory: expected an amount such as 512MiB or 2GiB, not "9223372036854775807KiB"`},
		{"no url", "remote_write:\n- interval: 1m\n", `2:3: remote_write: a receiver without url: add it`},
		{"url", "remote_write:\n- url: ftp://h/\n", `2:8: remote_write.url: expected an address such as https://host:9090/api/v1/write`},
		{"password in url", "remote_write:\n- url: http://u:secret@h/\n", `2:8: remote_write.url: no user and password in an address: use basic_auth with a password_file`},
		{"url twice", "remote_write:\n- url: http://h/\n- url: http://h/\n", `2:1: remote_write: two receivers with the same url would get everything twice: remove one`},
		{"bare interval", rw + "interval: 15\n", `3:13: remote_write.interval: expected a time such as 15s, not "15"`},
		{"interval", rw + "interval: 5ms\n", `3:13: remote_write.interval: 5ms is not within 1s and 1h`},
		{"label", rw + "external_labels: {a-b: x}\n", `3:21: remote_write.external_labels: "a-b" is no label: letters, digits and _, and no __ at the beginning`},
		{"half of basic auth", rw + "basic_auth: {username: u}\n", `3:15: basic_auth: needs both username and password_file`},
		{"both secrets", rw + "basic_auth: {username: u, password_file: p}\n  bearer_token_file: t\n", `4:22: remote_write: basic_auth or bearer_token_file, not both: remove one`},
		{"secret for anyone", rw + "bearer_token_file: t\n  tls: {insecure_skip_verify: true}\n", `4:8: remote_write.tls: a password or token would go to a receiver nobody has verified: name its ca_file`},
		{"tls without https", "remote_write:\n- url: http://h/w\n  tls: {ca_file: c}\n", `3:8: remote_write.tls: the url is not https: change one of them`},
		{"no prefix", "detect: {allow: [{owner: x, until: never}]}\n", `1:18: detect.allow: an entry without prefix: add it`},
		{"no owner", "detect: {allow: [{prefix: 10.0.0.1, until: never}]}\n", `1:18: detect.allow: an entry without owner: say who answers for it`},
		{"no end", "detect: {allow: [{prefix: 10.0.0.1, owner: x}]}\n", `1:18: detect.allow: an entry without until: a day such as 2027-01-31, or never`},
		{"end", "detect: {allow: [{prefix: 10.0.0.1, owner: x, until: tomorrow}]}\n", `1:54: detect.allow.until: expected a day such as 2027-01-31, a time such as 2027-01-31T08:00:00Z, or never, not "tomorrow"`},
		{"no such day", "detect: {allow: [{until: 2027-02-30}]}\n", `1:26: detect.allow.until: expected a day such as 2027-01-31, a time such as 2027-01-31T08:00:00Z, or never, not "2027-02-30"`},
		{"prefix", "detect: {allow: [{prefix: 10.0.0.0/33}]}\n", `1:27: detect.allow.prefix: expected a prefix such as 198.51.100.0/24, or an address, not "10.0.0.0/33"`},
		{"zone", "detect: {allow: [{prefix: 'fe80::1%eth0'}]}\n", `1:27: detect.allow.prefix: expected a prefix such as 198.51.100.0/24, or an address, not "fe80::1%eth0"`},
		{"host bits", "detect: {allow: [{prefix: 10.0.0.1/24}]}\n", `1:27: detect.allow.prefix: "10.0.0.1/24" has bits behind its length: 10.0.0.0/24, or 10.0.0.1`},
		{"mapped", "detect: {allow: [{prefix: '::ffff:10.0.0.1'}]}\n", `1:27: detect.allow.prefix: "::ffff:10.0.0.1" is IPv4 within IPv6: write the IPv4 address`},
		{"allowed twice", "detect: {allow: [{prefix: 10.0.0.1, owner: x, until: never}, {prefix: 10.0.0.1/32, owner: y, until: never}]}\n", `1:17: detect.allow: 10.0.0.1/32 is there twice: remove one`},
		{"long reason", "detect: {allow: [{reason: \"a\\nb\"}]}\n", `1:27: detect.allow.reason: expected one line of at most 200 bytes`},
		{"format", "feed: {format: xml}\n", `1:16: feed.format: expected json, eve, ecs, plain, not "xml"`},
		{"hook", "feed: {nft: {hook: output}}\n", `1:20: feed.nft.hook: expected prerouting, input, forward, not "output"`},
		{"two on stdout", "feed: {file: '-', nft: {dry_run: true}}\n", `1:14: feed.file: the dry run of nft writes to standard output too: name a file`},
		{"nats", "feed: {nats: {url: 'nats://h'}}\n", `1:20: feed.nats.url: expected an address such as nats://host:4222 or tls://host:4222`},
		{"nats password", "feed: {nats: {url: 'nats://u:secret@h:1'}}\n", `1:20: feed.nats.url: no user and password in an address: use credentials_file or basic_auth`},
		{"nats subject", "feed: {nats: {url: 'nats://h:1', subject: a.*}}\n", `1:43: feed.nats.subject: "a.*": expected a subject such as ctsight.findings`},
		{"nats key for anyone", "feed: {nats: {url: 'tls://h:1', credentials_file: c, tls: {insecure_skip_verify: true}}}\n", `1:59: feed.nats.tls: a password or key would go to a server nobody has verified: name its ca_file`},
		{"nats tls", "feed: {nats: {url: 'nats://h:1', tls: {ca_file: c}}}\n", `1:39: feed.nats.tls: the url is not tls: change one of them`},
		{"nats nowhere", "feed: {nats: {tls: {ca_file: c}}}\n", `1:14: feed.nats: no url: add it`},
		{"flight without dir", "flight: {size: 2GiB}\n", `1:9: flight: no dir, so nothing is recorded: add it, such as /var/lib/ctsight/flight`},
		{"flight age", "flight: {dir: x, age: 5m}\n", `1:23: flight.age: 5m0s is less than before and after, 7m0s: make it longer, or 0 for any`},
		{"short age", "flight: {dir: x, age: 5s}\n", `1:23: flight.age: 5s is too short: 1m at least, or 0 for whatever there is room for`},
		{"little room", "flight: {dir: x, size: 1M}\n", `1:24: flight.size: 1MiB is too little, at least 16MiB`},
		{"little room for what is kept", "flight: {dir: x, kept: 0}\n", `1:24: flight.kept: 0 is too little, at least 16MiB`},
		{"before", "flight: {dir: x, before: 2h}\n", `1:26: flight.before: expected a time between 10s and 1h`},
		{"after", "flight: {dir: x, after: 0s}\n", `1:25: flight.after: expected a time between 10s and 1h`},
		{"landlock", "sandbox: {landlock: yes}\n", `1:21: sandbox.landlock: expected auto, on, off, not "yes"`},
		{"level", "log: {level: loud}\n", `1:14: log.level: expected debug, info, warn, error, not "loud"`},
		{"two documents", "log: {}\n---\ncri: {}\n", `2:1: a second document begins: one per file, remove the line ---`},
		{"anchor", "log: &a {}\ncri: *a\n", `1:6: anchors and aliases are not known here: write the value out (and 1 more)`},
		{"merge", "log: {<<: {level: info}}\n", `1:7: unknown key "<<": log takes level, format`},
		{"complex key", "? [a]\n: b\n", `1:3: a key must be a word, not a list`},
		{"binary", "netns: !!binary aGk=\n", `1:8: netns: expected a text, not "aGk="`},
		{"tab", "web:\n\tlisten: []\n", `2:1: a tab in the indentation: use spaces`},
		{"tab after blanks", "web:\n  listen:\n  \t- a\n", `3:3: a tab in the indentation: use spaces`},
		{"open bracket", "a: b\nweb: {listen: [\n", `2:1: not YAML: did not find expected node content`},
		{"no value", "web: {}\nlog\n", `2:1: not YAML: could not find expected ':'`},
		{"not UTF-8", "log: {}\nnetns: ab\xff\n", `2:10: byte 0xff is not UTF-8: save the file as UTF-8`},
		{"UTF-16", "\xff\xfea\x00", `1:1: byte 0xff is not UTF-8: save the file as UTF-8`},
		{"control", "netns: \"é\x1b[2J\"\n", `1:10: control character U+001B: remove it`},
		{"hostile", `netns: {"\e]0;` + strings.Repeat("x", 900) + `": 1}` + "\n", `1:8: netns: expected a text, not keys`},
		{"hostile key", `"\e]0;` + strings.Repeat("x", 900) + `": 1` + "\n", `1:1: unknown key "\x1b]0;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...": the file takes backend, netns, web, metrics, limits, remote_write, detect, feed, flight, relief, sandbox, cri, log`},
		{"many", "a: 1\nb: 2\nc: 3\n", `1:1: unknown key "a": the file takes backend, netns, web, metrics, limits, remote_write, detect, feed, flight, relief, sandbox, cri, log (and 2 more)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("c.yml", []byte(c.text))
			if err == nil {
				t.Fatal("taken")
			}
			if got, want := err.Error(), "c.yml:"+c.want; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// The largest things that may be written, and what is made to be slow: the YAML
// library alone takes minutes for many keys of one mapping.
func TestParseLarge(t *testing.T) {
	n := MaxSize
	keys := func() string {
		var b strings.Builder
		for i := 0; b.Len() < n-20; i++ {
			fmt.Fprintf(&b, "k%d: 1\n", i)
		}
		return b.String()
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 8)+fmt.Sprintf("*%c", c-1))
	}
	for name, text := range map[string]string{
		"keys":     keys(),
		"comments": strings.Repeat("# nothing\n", n/10),
		"dashes":   strings.Repeat("- ", n/2),
		"brackets": strings.Repeat("[", n),
		"braces":   strings.Repeat("{a: ", n/4),
		"quotes":   `netns: "` + strings.Repeat(`\"`, n/2-10) + `"`,
		"bomb":     bomb,
		"too long": strings.Repeat(" ", n+1),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("c.yml", []byte(text))
			t.Log(time.Since(start), err)
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			if free := name == "comments" || name == "quotes"; free != (err == nil) {
				t.Error(err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yml")
	if err := os.WriteFile(file, []byte("web: {config_file: w.yml}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil || c.Web.ConfigFile != filepath.Join(dir, "w.yml") {
		t.Error(c, err)
	}
	t.Chdir(dir)
	if c, err = Load("c.yml"); err != nil || c.Web.ConfigFile != filepath.Join(dir, "w.yml") {
		t.Error(c, err)
	}
	// A pipe must not hang.
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, filepath.Join(dir, "absent")} {
		if _, err := Load(path); err == nil || strings.Contains(err.Error(), "\n") {
			t.Error(path, err)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"": 0, "7": 7, "512MiB": 512 << 20, "2 GiB": 2 << 30, "3KiB": 3 << 10, "5kB": 5000, "6MB": 6e6, "1GB": 1e9} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q: %d %v", text, b, err)
		}
		var again Bytes
		if err := again.UnmarshalText([]byte(b.String())); err != nil || again != b {
			t.Errorf("%q: %v %d", text, b, again)
		}
	}
	for _, text := range []string{"-1", "x", "1.5GiB", "MiB", "1Mi", "9GiBGiB"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// The words for backends are those of the probe, which this package does not import.
func TestBackends(t *testing.T) {
	for _, b := range []string{probe.Auto, probe.Fentry, probe.Kprobe, probe.Netfilter, probe.Netlink} {
		if c := parse(t, "backend: "+b); c.Backend != b {
			t.Error(b)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("web:\n\tlisten: []\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("c.yml", data)
		if (c == nil) != (err != nil) {
			t.Fatal(c, err)
		}
		if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%q", err)
		}
	})
}
