package metrics

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// page is the beginning of a document that is sent to many; each of them gets an
// end of its own. Compressed it is one gzip stream all the same: the shared part
// is flushed to a byte border, the end follows as a stored block, and the check
// sum goes on from where the shared part left it. So nothing is compressed twice,
// and no client needs a compressor, which takes 800 kB.
type page struct {
	bytes []byte
	gzip  bool
	crc   uint32 // of the text
	size  uint32
}

// gzipHead is the fixed head of RFC 1952: deflate, no name, no time, any system.
var gzipHead = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

var compressors = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.DefaultCompression) // fails for unknown levels only
	return w
}}

func newPage(text []byte, gzip bool) *page {
	if !gzip {
		return &page{bytes: text}
	}
	b := bytes.NewBuffer(append(make([]byte, 0, len(text)/4), gzipHead...))
	w := compressors.Get().(*flate.Writer)
	defer compressors.Put(w)
	w.Reset(b)
	_, _ = w.Write(text) // memory does not fail
	_ = w.Flush()
	return &page{bytes: b.Bytes(), gzip: true, crc: crc32.ChecksumIEEE(text), size: uint32(len(text))}
}

// maxStored is the most bytes that one stored block of deflate holds.
const maxStored = 1<<16 - 1

// end returns what closes the document.
func (p *page) end(text []byte) []byte {
	if !p.gzip {
		return text
	}
	out := make([]byte, 0, len(text)+32)
	crc, size := crc32.Update(p.crc, crc32.IEEETable, text), p.size+uint32(len(text))
	for more := true; more; {
		part := text[:min(len(text), maxStored)]
		text = text[len(part):]
		more = len(text) > 0
		last := byte(1)
		if more {
			last = 0
		}
		out = append(out, last)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(part)))
		out = binary.LittleEndian.AppendUint16(out, ^uint16(len(part)))
		out = append(out, part...)
	}
	out = binary.LittleEndian.AppendUint32(out, crc)
	return binary.LittleEndian.AppendUint32(out, size)
}

// acceptsGzip reads Accept-Encoding: gzip by name or by *, not at q=0.
func acceptsGzip(h http.Header) bool {
	rest := false
	for _, e := range strings.Split(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(e, ";")
		q := 1.0
		if v, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q="); ok {
			q, _ = strconv.ParseFloat(v, 64)
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip":
			return q > 0
		case "*":
			rest = q > 0
		}
	}
	return rest
}
