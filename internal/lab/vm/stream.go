package vm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The second serial port carries, in this order:
//
//	startMark, the command's output, resultMark "<code> <size>\n", size bytes of tar.gz, endMark
//
// Marks begin with a control character that text does not contain.
const (
	startMark  = "\x1ectsight-start\n"
	resultMark = "\x1ectsight-result "
	endMark    = "\x1ectsight-end\n"
)

// report is what the guest sent.
type report struct {
	code int
	out  []byte // tar.gz of /out
}

// readReport reads the stream; the command's output goes to stdout as it comes. started is
// called when the command is about to run. io.ErrUnexpectedEOF means the guest went away.
func readReport(r io.Reader, stdout io.Writer, started func()) (report, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if err := copyUntil(io.Discard, br, startMark); err != nil {
		return report{}, err
	}
	started()
	if err := copyUntil(stdout, br, resultMark); err != nil {
		return report{}, err
	}
	var rep report
	var size int
	line, err := br.ReadString('\n')
	if err != nil {
		return report{}, unexpected(err)
	}
	if _, err := fmt.Sscanf(line, "%d %d\n", &rep.code, &size); err != nil || size < 0 {
		return report{}, fmt.Errorf("read result frame %q: %w", line, errors.Join(err, ErrNoResult))
	}
	rep.out = make([]byte, size)
	if _, err := io.ReadFull(br, rep.out); err != nil {
		return report{}, fmt.Errorf("read files of the guest: %w", unexpected(err))
	}
	return rep, copyUntil(io.Discard, br, endMark)
}

// copyUntil copies r to w up to mark, which it consumes. It passes on what has arrived without
// waiting for the end of a line.
func copyUntil(w io.Writer, r *bufio.Reader, mark string) error {
	for {
		if _, err := r.Peek(1); err != nil {
			return unexpected(err)
		}
		buf, err := r.Peek(r.Buffered())
		if err != nil {
			return unexpected(err)
		}
		n, found := scanMark(buf, mark)
		if _, err := w.Write(buf[:n]); err != nil {
			return fmt.Errorf("pass on output: %w", err)
		}
		if found {
			n += len(mark)
		}
		if _, err := r.Discard(n); err != nil || found {
			return err
		}
		if n == 0 { // only the beginning of what may be a mark is here: wait for one byte more
			if _, err := r.Peek(len(buf) + 1); err != nil {
				return unexpected(err)
			}
		}
	}
}

// scanMark returns how many bytes of buf come before mark, or before what may become one.
func scanMark(buf []byte, mark string) (n int, found bool) {
	if i := bytes.Index(buf, []byte(mark)); i >= 0 {
		return i, true
	}
	for k := min(len(mark)-1, len(buf)); k > 0; k-- {
		if bytes.HasSuffix(buf, []byte(mark[:k])) {
			return len(buf) - k, false
		}
	}
	return len(buf), false
}

// unexpected turns the end of the stream into an error of its own.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// dmesgName is the file of /out in which init leaves the kernel's log.
const dmesgName = ".dmesg"

// unpackOut extracts the guest's /out into dir, which may be empty to drop all but the log.
func unpackOut(b []byte, dir string) (dmesg string, err error) {
	zr, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", fmt.Errorf("unpack files of the guest: %w", err)
	}
	tr := tar.NewReader(zr)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dmesg, nil
		}
		if err != nil {
			return "", fmt.Errorf("unpack files of the guest: %w", err)
		}
		switch name := filepath.Clean(h.Name); {
		case name == dmesgName:
			text, err := io.ReadAll(tr)
			if err != nil {
				return "", fmt.Errorf("unpack kernel log: %w", err)
			}
			dmesg = string(text)
		case dir != "" && filepath.IsLocal(name):
			if err := extract(tr, h, filepath.Join(dir, name)); err != nil {
				return "", fmt.Errorf("unpack %s: %w", name, err)
			}
		}
	}
}

// extract writes one directory or file; other kinds are left out.
func extract(r io.Reader, h *tar.Header, path string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, 0o755)
	case tar.TypeReg:
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o644)
	}
	return nil
}
