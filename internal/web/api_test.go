package web

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// The documents are those that view makes for the command line.
func TestDocuments(t *testing.T) {
	f := &fake{}
	s := serve(t, options(f))
	st := f.Status()
	doc, _ := f.Top(agg.ByDst, agg.ColLive, 0)
	ledger, _ := f.Ledger(t.Context())
	for path, write := range map[string]func(io.Writer) error{
		"/api/v1/top?by=dst&sort=live&top=7": func(w io.Writer) error { return view.WriteTopJSON(w, doc, view.TopOptions{Sort: agg.ColLive}) },
		"/api/v1/drops":                      func(w io.Writer) error { return view.WriteLedgerJSON(w, ledger, view.LedgerOptions{Top: defaultRows}) },
		"/api/v1/drops?top=1":                func(w io.Writer) error { return view.WriteLedgerJSON(w, ledger, view.LedgerOptions{Top: 1}) },
		"/api/v1/relief": func(w io.Writer) error {
			return view.WriteReliefJSON(w, &view.ReliefDoc{At: st.At, Changes: st.Reliefs}, view.Names{})
		},
		"/api/v1/flight": func(w io.Writer) error { return view.WriteFlightJSON(w, st.Flight) },
		"/api/v1/table":  func(w io.Writer) error { return view.WriteTableJSON(w, st, view.TopOptions{}) },
		"/api/v1/findings": func(w io.Writer) error {
			return errors.Join(view.WriteFindingJSON(w, &st.Findings[0], view.FindingOptions{}), view.WriteFindingJSON(w, &st.Findings[1], view.FindingOptions{}))
		},
	} {
		var want bytes.Buffer
		must(t, write(&want))
		if a, body := ask(t, "GET", s.url+path); a.StatusCode != 200 || body != want.String() || body == "" {
			t.Errorf("%s: %s\n%s\nwant\n%s", path, a.Status, body, &want)
		}
	}
}

// What is asked for is what the source is asked for.
func TestQuery(t *testing.T) {
	f := &fake{}
	s := serve(t, options(f))
	for q, want := range map[string]string{
		"":                           "src new 20",
		"?":                          "src new 20",
		"?by=&sort=&top=":            "src new 20",
		"?by=netns":                  "netns new 20",
		"?sort=live&top=0":           "src live 0",
		"?top=1000&by=prefix":        "prefix new 1000",
		"?sort=peak_rate_10ms&top=1": "src peak_rate_10ms 1",
	} {
		if a, body := ask(t, "GET", s.url+"/api/v1/top"+q); a.StatusCode != 200 {
			t.Errorf("%s: %s %s", q, a.Status, body)
		}
		if f.asked != want {
			t.Errorf("%s: asked for %s, want %s", q, f.asked, want)
		}
	}
}

// What cannot be meant is refused with a line that says what can be.
func TestBadQuery(t *testing.T) {
	f := &fake{}
	s := serve(t, options(f))
	for q, says := range map[string]string{
		"/api/v1/top?by=nonsense":                      "src, dst, edge, prefix, netns",
		"/api/v1/top?by=SRC":                           "src, dst",
		"/api/v1/top?sort=luck":                        "live",
		"/api/v1/top?top=-1":                           "up to 1000",
		"/api/v1/top?top=1001":                         "up to 1000",
		"/api/v1/top?top=1e3":                          "up to 1000",
		"/api/v1/top?top=%s":                           "%s",
		"/api/v1/top?a;b":                              "semicolon",
		"/api/v1/top?limit=5":                          "by, sort, top",
		"/api/v1/top?top=5&top=6":                      "twice",
		"/api/v1/top?by=%1b%5b2J%f0%9f%98%80%e2%80%ae": "src",
		"/api/v1/drops?by=dst":                         `"by" here: top`,
		"/api/v1/drops?top=x":                          "up to 1000",
		"/api/v1/table?top=1":                          "there are none",
		"/api/v1/flight?id=1":                          "there are none",
		"/api/v1/relief?id=1":                          "there are none",
		"/api/v1/findings?x":                           "there are none",
	} {
		a, body := ask(t, "GET", s.url+q)
		if text := failure(t, body); a.StatusCode != 400 || !strings.Contains(text, says) {
			t.Errorf("%s: %s %s, want %s", q, a.Status, text, says)
		}
	}
	f.err = badRequest("no rows by %s", "edge")
	if a, body := ask(t, "GET", s.url+"/api/v1/top?by=edge"); a.StatusCode != 400 || failure(t, body) != "no rows by edge" {
		t.Errorf("what the source refuses: %s %s", a.Status, body)
	}
}

// A query is refused, or it is what the standard library reads in it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "by=src&sort=new&top=20", "top=5&top=6", "by=%1b", "a;b", "%zz", "top=-0", "&&by=dst&", "top=%32", "sort=live+"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parse(raw, "by", "top")
		v, bad := url.ParseQuery(raw)
		if err != nil {
			if e := RequestError(""); !errors.As(err, &e) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%q: error %q", raw, err)
			}
			return
		}
		for name := range v {
			if !slices.Contains([]string{"by", "top"}, name) || bad != nil {
				t.Errorf("%q is taken", raw)
			}
		}
		if by := v.Get("by"); by != "" && q.by.String() != by {
			t.Errorf("%q: by %s", raw, q.by)
		}
		if n, err := strconv.Atoi(v.Get("top")); err == nil && q.top != n || q.top < 0 || q.top > maxRows || q.sort != agg.ColNew {
			t.Errorf("%q: %+v", raw, q)
		}
	})
}
