package vm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

// stream is what a guest sends for a command that prints text and leaves one file.
func stream(t *testing.T, text string, code int) string {
	t.Helper()
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	tw := tar.NewWriter(zw)
	for name, body := range map[string]string{"./.dmesg": "[ 1.0] WARNING: CPU: 1 PID: 2\n", "./d/f": "file", "../evil": "x"} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("noise%s%s%s%d %d\n%s%s", startMark, text, resultMark, code, z.Len(), z.Bytes(), endMark)
}

func TestReadReport(t *testing.T) {
	const text = "hello\nno end of line, \x1ebut a control character\x1ectsight-"
	readers := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "half": iotest.HalfReader,
	}
	for name, wrap := range readers {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			started := false
			rep, err := readReport(wrap(strings.NewReader(stream(t, text, 3))), &out, func() { started = true })
			if err != nil || rep.code != 3 || out.String() != text || !started {
				t.Fatalf("got code %d, %q, started %t, %v", rep.code, out.String(), started, err)
			}
			checkOut(t, rep.out)
		})
	}
}

// checkOut unpacks the files of a report.
func checkOut(t *testing.T, b []byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	dmesg, err := unpackOut(b, dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := (Result{Dmesg: dmesg}).Splats(); len(got) != 1 {
		t.Errorf("splats %q, want one", got)
	}
	if f, err := os.ReadFile(filepath.Join(dir, "d/f")); err != nil || string(f) != "file" {
		t.Errorf("got %q, %v", f, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "../evil")); err == nil {
		t.Error("a file left the directory")
	}
}

func TestReadReportOfDeadGuest(t *testing.T) {
	whole := stream(t, "text", 0)
	for n := range len(whole) - 1 {
		_, err := readReport(strings.NewReader(whole[:n]), io.Discard, func() {})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d of %d: got %v, want unexpected EOF", n, len(whole), err)
		}
	}
}

func TestTail(t *testing.T) {
	tl := newTail(2)
	fmt.Fprint(tl, "one\r\ntwo\nthr")
	fmt.Fprint(tl, "ee\nfour")
	if got, want := tl.String(), "two\nthree\nfour"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
