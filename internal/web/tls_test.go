package web

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ctsight/ctsight/internal/lab/cert"
)

// right is the hash of the password "right".
const right = "$2a$10$I4mt6HhM.Vr2WkmvLE9UleUISB5215JdiwlGxsjkyP7BRh2qku0lC"

func write(t testing.TB, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}

const certAndKey = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"

// secure runs a server with a file of exporter-toolkit.
func secure(t *testing.T, text string) (s *site, dir string) {
	dir = t.TempDir()
	cert.Write(t, dir, 1)
	o := options(&fake{})
	o.ConfigFile = filepath.Join(dir, "web.yml")
	write(t, o.ConfigFile, text)
	return serve(t, o), dir
}

// shake shakes hands and returns what was agreed on.
func (s *site) shake(t *testing.T, protos ...string) (tls.ConnectionState, error) {
	t.Helper()
	c := tls.Client(s.dial(t), &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
	err := c.Handshake()
	return c.ConnectionState(), err
}

// HTTP/2 is not agreed on, whatever the file says, and a new certificate is taken
// without a restart.
func TestTLS(t *testing.T) {
	s, dir := secure(t, certAndKey+"http_server_config: {http2: true}\n")
	state, err := s.shake(t, "h2", "http/1.1")
	must(t, err)
	if state.NegotiatedProtocol != "http/1.1" || state.PeerCertificates[0].SerialNumber.Int64() != 1 {
		t.Errorf("%q, serial %v", state.NegotiatedProtocol, state.PeerCertificates[0].SerialNumber)
	}
	if _, err := s.shake(t, "h2"); err == nil {
		t.Error("speaks HTTP/2")
	}
	cert.Write(t, dir, 2)
	state, err = s.shake(t)
	must(t, err)
	if n := state.PeerCertificates[0].SerialNumber.Int64(); n != 2 {
		t.Errorf("serial %d after the change", n)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	a, err := c.Get(strings.Replace(s.url, "http", "https", 1) + "/metrics")
	must(t, err)
	must(t, a.Body.Close())
	if a.StatusCode != 200 || a.ProtoMajor != 1 {
		t.Errorf("%s %s", a.Proto, a.Status)
	}
	guarded(t, a)
	if a := s.say(t, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.Contains(a, "HTTP request to an HTTPS server") {
		t.Errorf("without TLS: %q", a)
	}
}

// Without the password there is nothing, health included; who has it is let in, and
// what is refused has the headers of every answer.
func TestPasswords(t *testing.T) {
	s, dir := secure(t, "basic_auth_users: {me: '"+right+"'}\nhttp_server_config: {headers: {X-Frame-Options: deny}}\n")
	for _, path := range []string{"/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/nonsense", "/static/a.1.js"} {
		a, body := ask(t, "GET", s.url+path)
		if a.StatusCode != 401 || a.Header.Get("WWW-Authenticate") == "" || strings.Contains(body, "ctsight") || a.Header.Get("X-Frame-Options") != "deny" {
			t.Errorf("%s: %s %v %q", path, a.Status, a.Header, body)
		}
		guarded(t, a)
	}
	mine := strings.Replace(s.url, "://", "://me:right@", 1)
	for _, path := range []string{"/", "/metrics", "/-/healthy"} {
		if a, _ := ask(t, "GET", mine+path); a.StatusCode != 200 || a.Header.Get("X-Frame-Options") != "deny" {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	if a, _ := ask(t, "GET", strings.Replace(mine, "right", "wrong", 1)); a.StatusCode != 401 {
		t.Errorf("a wrong password: %s", a.Status)
	}
	write(t, filepath.Join(dir, "web.yml"), "basic_auth_users: {you: '"+right+"'}\n")
	if a, _ := ask(t, "GET", mine+"/metrics"); a.StatusCode != 401 {
		t.Errorf("a user that was removed: %s", a.Status)
	}
}

// What is wrong with the file is told before anything is attached, in one line that
// names it.
func TestConfigFileRefused(t *testing.T) {
	dir := t.TempDir()
	cert.Write(t, dir, 1)
	write(t, filepath.Join(dir, "bad.pem"), "nonsense")
	for name, c := range map[string]struct{ text, says string }{
		"no YAML":        {"tls_server_config: [\n", "line"},
		"unknown key":    {"tls_server_conf: {}\n", "tls_server_conf"},
		"no certificate": {"tls_server_config: {cert_file: none.pem, key_file: key.pem}\n", "none.pem"},
		"no key":         {"tls_server_config: {cert_file: cert.pem}\n", "key"},
		"bad key":        {"tls_server_config: {cert_file: cert.pem, key_file: bad.pem}\n", "PEM"},
		"two mistakes":   {"a: 1\nb: 2\n", "b"},
		"no hash":        {"basic_auth_users: {me: right}\n", "bcrypt"},
		"no header":      {"http_server_config: {headers: {X-Mine: a}}\n", "X-Mine"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(&fake{})
			o.ConfigFile = filepath.Join(dir, "web.yml")
			write(t, o.ConfigFile, c.text)
			refused(t, o, "web config file: ", o.ConfigFile, c.says)
		})
	}
	o := options(&fake{})
	o.ConfigFile = filepath.Join(dir, "none.yml")
	refused(t, o, o.ConfigFile, "no such file")
}

// Of those whose password was never right only a few are let through at a time; who
// was right before does not stand in their line.
func TestDoor(t *testing.T) {
	d := newDoor()
	begun, hold := make(chan struct{}), make(chan struct{})
	inner := d.inside(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	h := d.outside(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // exporter-toolkit
		switch r.Header.Get("Authorization") {
		case "wrong":
			begun <- struct{}{}
			<-hold
			w.WriteHeader(http.StatusUnauthorized)
		case "":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	code := func(authorization string) int {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		h.ServeHTTP(w, r)
		return w.Code
	}
	if c := code("right"); c != 200 {
		t.Errorf("the first time: %d", c)
	}
	var guessing sync.WaitGroup
	for range strangers {
		guessing.Go(func() {
			if c := code("wrong"); c != 401 {
				t.Errorf("a guess: %d", c)
			}
		})
		<-begun
	}
	for authorization, want := range map[string]int{"wrong": 503, "right too": 503, "right": 200, "": 401} {
		if c := code(authorization); c != want {
			t.Errorf("%q while others guess: %d, want %d", authorization, c, want)
		}
	}
	close(hold)
	guessing.Wait()
	for i := range 10 * maxKnown {
		if c := code("right " + strconv.Itoa(i)); c != 200 {
			t.Errorf("after them: %d", c)
		}
	}
	if n := len(d.known); n > maxKnown {
		t.Errorf("%d are remembered", n)
	}
}
