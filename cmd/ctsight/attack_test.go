package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attack is a crowd of clients, each of which does something until its connection
// is closed, and then comes again.
type attack struct {
	many  int
	plain bool // though the server may speak TLS
	do    []func(net.Conn)
}

const (
	get  = "GET /metrics HTTP/1.1\r\nHost: a\r\n"
	post = "POST /-/reload HTTP/1.1\r\nHost: a\r\n"
)

var megabyte = strings.Repeat("a", 1<<20)

var attacks = map[string]attack{
	"half-open":             {many: 500, do: one(hold)},
	"half-open and scrapes": {many: 1500, do: []func(net.Conn){hold, scrape(""), scrape("Accept-Encoding: gzip\r\n")}},
	"drip":                  {many: 500, do: one(drip(get))},
	"no reader":             {many: 500, do: one(unread(strings.Repeat(get+"\r\n", 400)))},
	"headers": {many: 100, do: []func(net.Conn){
		say(get + "X: " + megabyte + "\r\n\r\n"),
		say("GET /" + megabyte + " HTTP/1.1\r\n\r\n"),
	}},
	"bodies": {many: 300, do: []func(net.Conn){
		endless(post + "Content-Length: 1000000000\r\n\r\n"),
		drip(post + "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"),
		drip(post + "Content-Length: 1000\r\n\r\n"),
	}},
	"nonsense": {many: 200, do: []func(net.Conn){
		say("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00\xff", 300)),
		say("BREW /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
		say("\r\n\r\n\x00\r\n"),
		floods(nil, reset),
	}},
	"costly answers": {many: 100, do: []func(net.Conn){
		unread(strings.Repeat("GET /api/v1/top?top=1000 HTTP/1.1\r\nHost: a\r\n\r\n", 100)),
		unread(strings.Repeat("GET /api/v1/drops HTTP/1.1\r\nHost: a\r\n\r\n", 100)),
		unread(strings.Repeat(post+"\r\n", 100)),
	}},
	"no handshake":  {many: 500, plain: true, do: []func(net.Conn){hold, say(get + "\r\n")}},
	"half-open TLS": {many: 100, do: one(hold)},
	"rapid reset":   {many: 50, do: one(floods(nil, reset))},
	"h2 floods": {many: 60, do: []func(net.Conn){
		floods(nil, func(s *speaker) error { return s.continuation() }),
		floods(nil, func(s *speaker) error { s.request(true); return nil }),
		floods([]http2.Setting{{ID: http2.SettingInitialWindowSize}}, func(s *speaker) error { s.request(true); return s.ping() }),
		floods(nil, func(s *speaker) error { return s.WriteSettings() }),
		bigFrame,
	}},
	"passwords": {many: 200, do: one(func(c net.Conn) {
		guess := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "admin:%d", rand.Int64()))
		say(get + "Authorization: Basic " + guess + "\r\n\r\n")(c)
	})},
}

func one(do func(net.Conn)) []func(net.Conn) { return []func(net.Conn){do} }

// hold waits for the end and reads all that comes.
func hold(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func say(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, text); err == nil {
			hold(c)
		}
	}
}

func scrape(header string) func(net.Conn) { return say(get + header + "Connection: close\r\n\r\n") }

// drip sends a byte now and then after a head.
func drip(head string) func(net.Conn) {
	return func(c net.Conn) {
		_, err := io.WriteString(c, head)
		for i := 0; err == nil; i++ {
			time.Sleep(100 * time.Millisecond)
			_, err = c.Write([]byte{"X-a: b\r\n"[i%8]})
		}
	}
}

// unread asks and takes no answer.
func unread(text string) func(net.Conn) { return drip(text) }

func endless(head string) func(net.Conn) {
	return func(c net.Conn) {
		_, err := io.WriteString(c, head)
		for err == nil {
			_, err = io.WriteString(c, megabyte)
		}
	}
}

// speaker is an HTTP/2 client that keeps to no rules.
type speaker struct {
	*http2.Framer
	w      *bufio.Writer
	stream uint32
	enc    *hpack.Encoder
	block  bytes.Buffer
}

func speak(c net.Conn, settings []http2.Setting) *speaker {
	w := bufio.NewWriterSize(c, 4<<10)
	_, _ = w.WriteString(http2.ClientPreface)
	s := &speaker{Framer: http2.NewFramer(w, nil), w: w, stream: 1}
	s.AllowIllegalWrites = true
	s.enc = hpack.NewEncoder(&s.block)
	_ = s.WriteSettings(settings...)
	_ = s.WriteSettingsAck()
	return s
}

// request opens the next stream.
func (s *speaker) request(ends bool) (stream uint32) {
	s.block.Reset()
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/metrics"}} {
		_ = s.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	stream, s.stream = s.stream, s.stream+2
	_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: s.block.Bytes(), EndStream: true, EndHeaders: ends})
	return stream
}

func reset(s *speaker) error { return s.WriteRSTStream(s.request(true), http2.ErrCodeCancel) }

func (s *speaker) ping() error { return s.WritePing(false, [8]byte{}) }

// continuation adds to a header that never ends.
func (s *speaker) continuation() error {
	if s.stream == 1 {
		s.request(false)
	}
	return s.WriteContinuation(1, false, make([]byte, 1000))
}

// floods repeats frames until the connection is gone.
func floods(settings []http2.Setting, frames func(*speaker) error) func(net.Conn) {
	return func(c net.Conn) {
		go hold(c)
		for s := speak(c, settings); frames(s) == nil && s.w.Flush() == nil; {
		}
	}
}

// bigFrame promises 1 MB and sends most of it.
func bigFrame(c net.Conn) {
	s := speak(c, nil)
	_ = s.w.Flush()
	_, _ = c.Write([]byte{0x0f, 0xff, 0xff, 0, 0, 0, 0, 0, 1})
	say(megabyte[:1<<20-100])(c)
}

// The attacker is a process of its own: what it costs is not the server's.
const (
	asAttacker = "CTSIGHT_TEST_ATTACK" // its attack, and the server
	withTLS    = "tls://"
)

// start lets an attack begin; it ends when stop is called.
func start(t *testing.T, name, server string) (stop func()) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asAttacker+"="+name+"|"+server, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	return func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	}
}

// attackAs is what the attacker's process runs, for as long as it lives.
func attackAs(nameAndServer string) {
	name, server, _ := strings.Cut(nameAndServer, "|")
	a := attacks[name]
	addr, secure := strings.CutPrefix(server, withTLS)
	var wg sync.WaitGroup
	for i := range a.many {
		wg.Go(func() {
			for {
				if c, err := dial(addr, secure && !a.plain); err == nil {
					a.do[i%len(a.do)](c)
					c.Close()
				} else {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

// dial opens a connection with room for little; it would like HTTP/2.
func dial(addr string, secure bool) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.(*net.TCPConn).SetLinger(0) // ports are needed again
	if !secure {
		return c, nil
	}
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}
