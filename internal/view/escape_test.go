package view

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendName(t *testing.T) {
	for in, want := range map[string]string{
		"eth0":                             "eth0",
		"cni-1a2b@if3":                     "cni-1a2b@if3",
		"":                                 `""`,
		"Web Content":                      `"Web Content"`,
		"a\tb\n":                           `"a\x09b\x0a"`,
		"\x1b]0;t\a":                       `"\x1b]0;t\x07"`,
		"\u202eabc\u2069":                  `"\u202eabc\u2069"`,
		"\U000e0041x":                      `"\U000e0041x"`,
		"\xff\xc3":                         `"\xff\xc3"`,
		"größe":                            `"größe"`,
		`q"\`:                              `"q\"\\"`,
		"\u009b2J":                         `"\u009b2J"`,
		strings.Repeat("x", 64):            strings.Repeat("x", 64),
		strings.Repeat("x", 4096):          `"` + strings.Repeat("x", 64) + `..."`,
		strings.Repeat("x", 63) + "\u00e9": `"` + strings.Repeat("x", 63) + `\xc3..."`, // cut in the middle of a rune
	} {
		if got := string(appendName(nil, in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add(hostile)
	f.Add("\U0010ffff\ud7ff\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		name, js, text := appendName(nil, s), appendJSONString(nil, s), []byte(safeText(s))
		for _, b := range [][]byte{name, js, text} {
			if !utf8.Valid(b) {
				t.Errorf("%q: not UTF-8: %q", s, b)
			}
			for _, r := range string(b) {
				if !safe(r) {
					t.Errorf("%q: rune %U comes through", s, r)
				}
			}
		}
		var back string
		if err := json.Unmarshal(js, &back); err != nil {
			t.Fatalf("%q: %v in %s", s, err, js)
		}
		if want := strings.ToValidUTF8(s, "\x00"); utf8.ValidString(s) && back != want {
			t.Errorf("%q reads back as %q", s, back)
		}
		var doc bytes.Buffer
		if err := writeJSON(&doc, outside(s)); err != nil || doc.String() != string(js)+"\n" {
			t.Errorf("%q: in a document %s, %v, alone %s", s, doc.String(), err, js)
		}
	})
}
