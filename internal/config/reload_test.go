package config

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// Every key, in the order of Config, and whether a reload changes it.
func TestDiff(t *testing.T) {
	live, restart := Default().Diff(parse(t, everything))
	wantLive := []string{"limits.memory", "remote_write", "detect.allow", "feed.blocklist", "feed.nft.enable", "feed.nft.dry_run",
		"feed.nft.hook", "feed.nft.action", "log.level"}
	wantRestart := []string{"backend", "netns", "web.listen", "web.config_file", "web.telemetry_path", "web.max_connections",
		"web.enable_reload", "metrics.top_prefixes", "limits.sources", "limits.live",
		"feed.file", "feed.format", "feed.nats.url", "feed.nats.subject", "feed.nats.credentials_file", "feed.nats.tls.ca_file", "flight.dir", "flight.size", "flight.age", "flight.kept", "flight.before", "flight.after", "relief.dir", "sandbox.capabilities", "sandbox.landlock",
		"cri.socket", "log.format"}
	if d := cmp.Diff(wantLive, live); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(wantRestart, restart); d != "" {
		t.Error(d)
	}
	if live, restart = Default().Diff(parse(t, "remote_write: []")); live != nil || restart != nil {
		t.Error(live, restart)
	}
}

// Tags are strings: nothing but this would see a slip in one.
func TestTags(t *testing.T) {
	var visit func(reflect.Type)
	visit = func(rt reflect.Type) {
		for f := range rt.Fields() {
			if f.Tag.Get("yaml") == "" {
				t.Errorf("%v.%s has no key", rt, f.Name)
			}
			if c := f.Tag.Get("check"); c != "" && checks[c] == nil {
				t.Errorf("%v.%s: no check %q", rt, f.Name, c)
			}
			if r := f.Tag.Get("reload"); r != "" && r != "live" {
				t.Errorf("%v.%s: reload %q", rt, f.Name, r)
			}
			switch {
			case isText(reflect.New(f.Type).Elem()):
			case f.Type.Kind() == reflect.Struct:
				visit(f.Type)
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				visit(f.Type.Elem())
			}
		}
	}
	visit(reflect.TypeFor[Config]())
}

func flags(t *testing.T, args ...string) Lookup {
	t.Helper()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.StringArray("web.listen-address", []string{":9781"}, "")
	fs.StringArray("remote-write.url", nil, "")
	fs.Int("metrics.top-prefixes", 0, "")
	fs.String("web.telemetry-path", "/metrics", "")
	fs.String("backend", "auto", "")
	fs.String("log.level", "info", "")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Given(fs)
}

func TestOverride(t *testing.T) {
	file := parse(t, everything)
	// Flags at their defaults do not win.
	if c, err := file.Override(flags(t)); err != nil || !reflect.DeepEqual(c, file) {
		t.Error(c, err)
	}
	// A flag that is given wins, be it with the value of its default.
	c, err := file.Override(flags(t, "--backend=auto", "--web.listen-address=:1", "--web.listen-address=:2",
		"--metrics.top-prefixes=7", "--remote-write.url=http://new/", "--remote-write.url=https://h/write"))
	if err != nil {
		t.Fatal(err)
	}
	want := parse(t, everything)
	want.Backend, want.Web.Listen, want.Metrics.TopPrefixes = "auto", []string{":1", ":2"}, 7
	// What the file says of a receiver stays; those that no flag names go.
	want.RemoteWrite = []RemoteWrite{{URL: "http://new/", Interval: 15 * time.Second}, want.RemoteWrite[0]}
	if d := cmp.Diff(want, c, comparable); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(parse(t, everything), file, comparable); d != "" {
		t.Error("the file's configuration was changed", d)
	}
}

func TestOverrideRefuses(t *testing.T) {
	for arg, want := range map[string]string{
		"--backend=x":                 `--backend: expected auto, fentry, kprobe, netfilter, netlink, not "x"`,
		"--web.listen-address=x":      `--web.listen-address: "x": expected host:port or :port`,
		"--metrics.top-prefixes=1000": `--metrics.top-prefixes: 1000 is not within 0 and 100`,
		"--web.telemetry-path=/-/x":   `--web.telemetry-path: "/-/x" is taken by the page or the API`,
		"--remote-write.url=h":        `--remote-write.url: expected an address such as`,
	} {
		c, err := Default().Override(flags(t, arg))
		if c != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
}

// source is a file that tests change.
type source struct {
	mu   sync.Mutex
	text string
}

func (s *source) set(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = text
}

func (s *source) load() (*Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Parse("c.yml", []byte(s.text))
}

func TestReload(t *testing.T) {
	clock := time.Unix(1000, 0)
	now := func() time.Time { return clock }
	var log []string
	refuse := errors.New("no")
	hook := func(name string, err *error) Hook {
		return func(_ context.Context, now, next *Config) (Change, error) {
			log = append(log, name+" "+now.Log.Level+" to "+next.Log.Level)
			if *err != nil {
				return Change{}, *err
			}
			return Change{Commit: func() { log = append(log, name+" commit") }, Discard: func() { log = append(log, name+" discard") }}, nil
		}
	}
	expect := func(want ...string) {
		t.Helper()
		if d := cmp.Diff(want, log); d != "" {
			t.Error(d)
		}
		log = nil
	}
	s := &source{text: "log: {level: warn}"}
	var errA, errB error
	r, err := NewReloader(s.load, now, hook("a", &errA))
	if err != nil {
		t.Fatal(err)
	}
	r.AddHook(hook("b", &errB))
	expect()
	if st := r.State(); !st.Success || st.LastSuccess != clock || st.Err != nil {
		t.Errorf("%+v", st)
	}

	// What needs a restart is named, each time, and stays as it was.
	s.set("log: {level: debug}\nbackend: kprobe\n")
	for range 2 {
		clock = clock.Add(time.Second)
		res, err := r.Reload(t.Context())
		if err != nil || !cmp.Equal(res.Restart, []string{"backend"}) {
			t.Fatal(res, err)
		}
	}
	if c := r.Config(); c.Log.Level != "debug" || c.Backend != "auto" {
		t.Errorf("%+v", c)
	}
	expect("a warn to debug", "b warn to debug", "a commit", "b commit", "a debug to debug", "b debug to debug", "a commit", "b commit")

	// A broken file, and a hook that refuses, change nothing at all.
	was, success := r.Config(), clock
	clock = clock.Add(time.Second)
	s.set("log: {level: loud}")
	if _, err = r.Reload(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "reload: c.yml:1:14: log.level: ") {
		t.Error(err)
	}
	expect()
	s.set("log: {level: error}")
	errB = refuse
	if _, err = r.Reload(t.Context()); !errors.Is(err, refuse) {
		t.Error(err)
	}
	expect("a debug to error", "b debug to error", "a discard")
	if r.Config() != was {
		t.Error("the configuration was changed")
	}
	if st := r.State(); st.Success || st.LastSuccess != success || !errors.Is(st.Err, refuse) || st.Failed != 2 {
		t.Errorf("%+v", st)
	}
	errB = nil
	if res, err := r.Reload(t.Context()); err != nil || !cmp.Equal(res, Result{Live: []string{"log.level"}}) {
		t.Error(res, err)
	}
	if st := r.State(); !st.Success || st.LastSuccess != clock || st.Err != nil || st.Failed != 2 {
		t.Errorf("%+v", st)
	}
}

// Reloads at once are one after the other: a hook sees what the one before left.
func TestReloadAtOnce(t *testing.T) {
	s := &source{}
	busy, last := make(chan struct{}, 1), ""
	var r *Reloader
	r, err := NewReloader(s.load, time.Now, func(_ context.Context, now, next *Config) (Change, error) {
		select {
		case busy <- struct{}{}:
		default:
			t.Error("two reloads at once")
		}
		if now != r.Config() || now.Log.Level != last && last != "" {
			t.Error("not the configuration that runs")
		}
		return Change{Commit: func() { last = next.Log.Level; <-busy }}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			s.set("log: {level: " + []string{"debug", "warn"}[i%2] + "}")
			if _, err := r.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			_, _ = r.Config().Log.Level, r.State()
		})
	}
	wg.Wait()
	if !r.State().Success {
		t.Error(r.State())
	}
}

// A reload that waits for another gives up with its context.
func TestReloadGivesUp(t *testing.T) {
	hold, inside := make(chan struct{}), make(chan struct{})
	r, err := NewReloader((&source{}).load, time.Now, func(context.Context, *Config, *Config) (Change, error) {
		close(inside)
		<-hold
		return Change{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := r.Reload(context.Background()); done <- err }()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Reload(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
