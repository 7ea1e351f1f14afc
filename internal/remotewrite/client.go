package remotewrite

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"

	"github.com/ctsight/ctsight/internal/config"
)

// Limits of a receiver's answer: whatever it is, it costs no more than this.
const (
	maxAnswer = 512      // bytes of the text that says what is wrong
	maxHeader = 16 << 10 // bytes
	maxSecret = 64 << 10 // bytes of a file with a password, a token or certificates
)

// maxRetryAfter is the longest that a receiver may have us wait.
const maxRetryAfter = 10 * time.Minute

// client sends messages to one receiver, one at a time.
type client struct {
	cfg  config.RemoteWrite
	ca   string // content of cfg.TLS.CAFile
	api  *remote.API
	door *door
}

// newClient reads the certificates; a password is read anew for each message.
func newClient(cfg config.RemoteWrite, agent string, timeout time.Duration) (*client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("remote_write: not an address") // which may have a secret in it
	}
	t := &tls.Config{InsecureSkipVerify: cfg.TLS.InsecureSkipVerify, MinVersion: tls.VersionTLS12}
	c := &client{cfg: cfg}
	if f := cfg.TLS.CAFile; f != "" {
		if c.ca, err = readFile(f); err != nil {
			return nil, fmt.Errorf("remote_write: ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM([]byte(c.ca)) {
			return nil, fmt.Errorf("remote_write: ca_file: no certificate (PEM) in %s", f)
		}
	}
	c.door = &door{url: u, cfg: cfg, agent: agent, next: &http.Transport{
		DialContext: (&net.Dialer{Timeout: timeout}).DialContext, TLSHandshakeTimeout: timeout, TLSClientConfig: t,
		MaxIdleConns: 1, IdleConnTimeout: 5 * time.Minute, MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
	}}
	h := &http.Client{Transport: c.door, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// The queue decides what is tried again and when: no retries in there.
	c.api, err = remote.NewAPI(cfg.URL, remote.WithAPIHTTPClient(h), remote.WithAPIBackoff(remote.BackoffConfig{MaxRetries: -1}))
	return c, err
}

func (c *client) close() { c.door.next.CloseIdleConnections() }

// readFile takes a file of text that somebody else may be writing or have put there.
func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret))
	return string(b), err
}

// verdict is what an answer means.
type verdict int

const (
	taken   verdict = iota // all, or as much as the headers say
	refused                // it will not be taken tomorrow either
	again                  // try later: no answer, or one that says so
	unknown                // the receiver does not know version 2
)

// answer is what came of a message.
type answer struct {
	verdict verdict
	status  int // of HTTP; 0 without an answer
	written remote.WriteResponseStats
	told    bool // the receiver said how much it has written
	wait    time.Duration
	err     error
}

// wire is an encoded message, as the library takes it.
type wire []byte

// SizeVT is the length.
func (w wire) SizeVT() int { return len(w) }

// MarshalToSizedBufferVT copies it.
func (w wire) MarshalToSizedBufferVT(b []byte) (int, error) { return copy(b, w), nil }

// write sends one message, once.
func (c *client) write(ctx context.Context, kind remote.WriteMessageType, message []byte) answer {
	c.door.status, c.door.told, c.door.err = 0, false, nil
	stats, err := c.api.Write(ctx, kind, wire(message))
	a := answer{status: c.door.status, written: stats, told: c.door.told, err: err}
	if c.door.err != nil {
		a.err = c.door.err // without the address, which may have a secret in it
	}
	var later interface {
		error
		RetryAfter() time.Duration
	}
	switch {
	case errors.As(err, &later):
		a.verdict, a.wait = again, min(max(0, later.RetryAfter()), maxRetryAfter)
	case kind == remote.WriteV2MessageType && !a.told && (a.status/100 == 2 || a.status == http.StatusUnsupportedMediaType):
		a.verdict = unknown
	case err != nil:
		a.verdict = refused
	}
	return a
}

// door is the way out: it says who we are, and lets in no more of an answer than
// somebody reads.
type door struct {
	url    *url.URL
	cfg    config.RemoteWrite
	agent  string
	next   *http.Transport
	status int   // of the last answer
	told   bool  // it had headers of version 2
	err    error // that there was none
}

// RoundTrip implements http.RoundTripper.
func (d *door) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	resp, err = d.ask(r)
	if d.err = err; errors.Is(err, context.DeadlineExceeded) {
		d.err = errors.New("no answer in time")
	}
	return resp, err
}

func (d *door) ask(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL = d.url // as configured: the library cleans the path
	r.Header.Set("User-Agent", d.agent)
	if err := d.authorize(r); err != nil {
		return nil, err
	}
	resp, err := d.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	d.status = resp.StatusCode
	for _, what := range []string{"Samples", "Histograms", "Exemplars"} {
		d.told = d.told || resp.Header.Get("X-Prometheus-Remote-Write-"+what+"-Written") != ""
	}
	text, err := d.text(resp)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(strings.NewReader(text))
	return resp, nil
}

// text is what an answer says is wrong, in one line.
func (d *door) text(resp *http.Response) (string, error) {
	switch resp.StatusCode / 100 {
	case 2:
		return "", nil
	case 3:
		return "a redirect, which is not followed: name the address itself", nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return string(bytes.Join(bytes.Fields(bytes.ToValidUTF8(b, nil)), []byte(" "))), err
}

// authorize reads the secret, which may have been changed since the last message.
func (d *door) authorize(r *http.Request) error {
	if name := d.cfg.BasicAuth.PasswordFile; name != "" {
		s, err := readFile(name)
		if err != nil {
			return fmt.Errorf("password_file: %w", err)
		}
		r.SetBasicAuth(d.cfg.BasicAuth.Username, strings.TrimSpace(s))
	}
	if name := d.cfg.BearerTokenFile; name != "" {
		s, err := readFile(name)
		if err != nil {
			return fmt.Errorf("bearer_token_file: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(s))
	}
	return nil
}
