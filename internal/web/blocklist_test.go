package web

import (
	"net/http"
	"testing"
)

// Mirrors ask with what they have: 304 and no body while it is the same.
func TestBlocklist(t *testing.T) {
	text, tag := "198.51.100.7\n", `"a"`
	o := options(&fake{})
	o.Blocklist.Text = func() ([]byte, string, bool) { return []byte(text), tag, true }
	url := serve(t, o).url + "/blocklist"
	for _, c := range []struct {
		name, header, value string
		code                int
	}{
		{"first", "X-None", "x", 200}, {"the same", "If-None-Match", `"a"`, 304}, {"among others", "If-None-Match", `"x", "a"`, 304},
		{"weak", "If-None-Match", `W/"a"`, 304}, {"any", "If-None-Match", "*", 304}, {"another", "If-None-Match", `"b"`, 200},
		{"compressed", "Accept-Encoding", "gzip", 200},
	} {
		a, body := ask(t, "GET", url, c.header, c.value)
		if a.StatusCode != c.code || a.Header.Get("ETag") != tag || a.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %s, %v", c.name, a.Status, a.Header)
		}
		if (c.code == http.StatusOK) != (body == text) {
			t.Errorf("%s: %q", c.name, body)
		}
		guarded(t, a)
	}
	text, tag = "", `"c"`
	if a, body := ask(t, "GET", url, "If-None-Match", `"a"`); a.StatusCode != 200 || body != "" {
		t.Errorf("nobody any more: %s %q", a.Status, body)
	}
	if a, body := ask(t, "GET", url+"?format=nft"); body != "table inet ctsight\n" || a.Header.Get("ETag") != "" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %q", a.Header, body)
	}
}
