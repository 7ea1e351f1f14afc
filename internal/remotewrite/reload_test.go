package remotewrite

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/config"
)

// Receivers come, change and go while it runs; one that stays loses nothing, one that
// goes gets all and the end of all series.
func TestReload(t *testing.T) {
	first, second := newStore(t), newStore(t)
	a, b := to(first.URL), to(second.URL)
	run := start(t, nil, a)
	eventually(t, "the first", func() bool { return len(first.requests()) > 5 })
	if second.asked() > 0 {
		t.Error("the second was asked")
	}
	run.reload(t, a, b)
	eventually(t, "the second", func() bool { return len(second.requests()) > 5 })
	slow := a
	slow.Interval, slow.ExternalLabels = time.Hour, map[string]string{"site": "fra"}
	run.reload(t, slow, b)
	eventually(t, "the new interval", func() bool { return run.receivers[0].config().Interval == time.Hour })
	slow.Interval = a.Interval
	run.reload(t, b, slow) // in another order
	const moved = `__name__="c0",instance="gw1",job="ctsight",site="fra"`
	eventually(t, "the new label", func() bool { return len(first.points(t)[moved]) > 5 })
	run.reload(t, b)
	eventually(t, "the end at the first", func() bool { return len(first.points(t)) > 0 && ended(first.points(t)) })
	n := len(second.requests())
	eventually(t, "the second goes on", func() bool { return len(second.requests()) > n+5 })
	run.stop()

	if got := slices.Collect(maps.Keys(run.Accounts())); !slices.Equal(got, []string{second.URL}) {
		t.Errorf("receivers %q", got)
	}
	for _, s := range []*store{first, second} {
		for k, ps := range s.points(t) {
			if !isStale(ps[len(ps)-1]) {
				t.Errorf("%s: %s has not ended", s.URL, k)
			}
		}
	}
	all := append(live(first.points(t)[c0]), live(first.points(t)[moved])...)
	for i := 1; i < len(all); i++ { // both receivers gather from one source
		if all[i].value <= all[i-1].value || all[i].at <= all[i-1].at {
			t.Errorf("%v after %v", all[i], all[i-1])
		}
	}
	if second.points(t)[moved] != nil {
		t.Error("labels of one receiver at the other")
	}
}

func ended(all map[string][]point) bool {
	for _, ps := range all {
		if !isStale(ps[len(ps)-1]) {
			return false
		}
	}
	return true
}

// What waits for a receiver goes out by its new settings.
func TestReloadKeepsQueue(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	must(t, os.WriteFile(password, []byte("right\n"), 0o600))
	closed := func(w http.ResponseWriter, r *http.Request) bool {
		if _, p, _ := r.BasicAuth(); p == "right" {
			return false
		}
		return says(http.StatusServiceUnavailable)(w, r)
	}
	for range 10000 {
		s.next(closed)
	}
	b := start(t, func(l *limits) { l.backoffMin, l.backoffMax = time.Hour, time.Hour }, to(s.URL))
	eventually(t, "what waits", func() bool { return b.account(t).Pending > 20 })
	c := to(s.URL)
	c.BasicAuth = config.BasicAuth{Username: "u", PasswordFile: password}
	b.reload(t, c)
	eventually(t, "all", func() bool { a := b.account(t); return a.Sent > 20 && a.Pending < 4 })
	b.stop()
	increasing(t, live(s.points(t)[c0]))
	if a := b.account(t); a.Sent != a.Gathered {
		t.Errorf("account %+v", a)
	}
}

// A changed password or token is used at once.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	s := newStore(t)
	basic, bearer := to(s.URL+"/basic"), to(s.URL+"/bearer")
	basic.BasicAuth = config.BasicAuth{Username: "u", PasswordFile: file}
	bearer.BearerTokenFile = file
	b := start(t, nil, basic, bearer) // without the file: nothing is sent, nothing is lost
	eventually(t, "the complaint", func() bool {
		return len(b.log.lines("password_file")) == 1 && len(b.log.lines("bearer_token_file")) == 1
	})
	if s.asked() > 0 {
		t.Error("it was asked without a password")
	}
	for _, secret := range []string{"one", "two"} {
		must(t, os.WriteFile(file+".new", []byte(secret+"\n"), 0o600))
		must(t, os.Rename(file+".new", file))
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth("u", secret)
		for _, want := range []string{r.Header.Get("Authorization"), "Bearer " + secret} {
			eventually(t, want, func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return slices.ContainsFunc(s.headers, func(h http.Header) bool { return h.Get("Authorization") == want })
			})
		}
	}
	b.stop()
	for url, a := range b.Accounts() {
		if a.Sent != a.Gathered {
			t.Errorf("%s: %+v", url, a)
		}
	}
	if strings.Contains(b.log.buf.String(), "two") {
		t.Error("the secret is in the log")
	}
}

func TestTLS(t *testing.T) {
	s := newStore(t)
	secure := httptest.NewUnstartedServer(s)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600))
	c := to(secure.URL)
	b := start(t, nil, c)
	eventually(t, "distrust", func() bool { return len(b.log.lines("certificate")) == 1 })
	if s.asked() > 0 {
		t.Error("it was sent to a receiver nobody trusts")
	}
	c.TLS.CAFile = ca
	b.reload(t, c)
	eventually(t, "trust", func() bool { return len(s.requests()) > 5 })
	c.TLS = config.TLS{InsecureSkipVerify: true}
	b.reload(t, c)
	n := len(s.requests())
	eventually(t, "no question asked", func() bool { return len(s.requests()) > n+5 })
	b.stop()
	increasing(t, live(s.points(t)[c0]))
}

// A reload with something wrong changes nothing.
func TestReloadWrong(t *testing.T) {
	s := newStore(t)
	b := start(t, nil, to(s.URL))
	for _, text := range []string{"", "no certificate"} {
		c := to("https://127.0.0.1:1")
		c.TLS.CAFile = filepath.Join(t.TempDir(), "ca.pem")
		if text != "" {
			must(t, os.WriteFile(c.TLS.CAFile, []byte(text), 0o600))
		}
		if _, err := b.Hook(context.Background(), nil, &config.Config{RemoteWrite: []config.RemoteWrite{c}}); err == nil || !strings.Contains(err.Error(), "ca.pem") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, ok := b.Accounts()[s.URL]; !ok {
		t.Error("the receiver is gone")
	}
}

// Names for logs and metrics have nothing secret in them and are never the same.
func TestNames(t *testing.T) {
	s := New(Options{Gather: (&source{}).gather})
	var cfgs []config.RemoteWrite
	for _, url := range []string{"http://h/w?token=a", "http://h/w?token=b", "https://h:1/w"} {
		cfgs = append(cfgs, config.RemoteWrite{URL: url, Interval: time.Second})
	}
	change, err := s.Hook(t.Context(), nil, &config.Config{RemoteWrite: cfgs})
	must(t, err)
	change.Commit()
	got := slices.Sorted(maps.Keys(s.Accounts()))
	if want := []string{"http://h/w", "http://h/w#2", "https://h:1/w"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	_, err = newClient(config.RemoteWrite{URL: "http://h/\x7f?token=secret"}, "", time.Second)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

// An address may have a secret in its query: no error tells it.
func TestQueryIsSecret(t *testing.T) {
	s := newStore(t)
	s.Close()
	b := start(t, nil, to(s.URL+"/write?token=secret"))
	eventually(t, "the complaint", func() bool { return len(b.log.lines("refused")) > 0 })
	b.stop()
	if said := b.log.lines("secret"); said != nil {
		t.Errorf("said %q", said)
	}
}
