package web

import (
	"bytes"
	"net/http"
	"net/url"
	"time"
)

// Blocklist is who may be blocked, in the forms that are served.
type Blocklist struct {
	// Text is the list, one a line, and its validator; ok is false while it is off.
	Text func() (text []byte, etag string, ok bool)
	// Ruleset is what nftables would be told.
	Ruleset func() []byte
}

// blocklist answers a mirror that has the list already with 304.
func (s *Server) blocklist(w http.ResponseWriter, r *http.Request) {
	form, err := formOf(r.URL.RawQuery)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	text, etag, ok := s.o.Blocklist.Text()
	if !ok {
		fail(w, http.StatusNotFound, "the block list is off (feed.blocklist)")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeTimeout))
	if form == "nft" {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.o.Blocklist.Ruleset()))
		return
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Cache-Control", "no-cache") // kept, but asked about each time
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}

// formOf is the parameter format: text or nft.
func formOf(raw string) (string, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return "", badRequest("%s", err)
	}
	for name, all := range v {
		if name != "format" || len(all) > 1 {
			return "", badRequest("no parameter %q here, or twice: format", name)
		}
	}
	if f := v.Get("format"); f != "" && f != "text" && f != "nft" {
		return "", badRequest("format=%q: text, nft", f)
	}
	return v.Get("format"), nil
}
