package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// MaxSize is the size of the largest file that is read. Ten thousand entries of a
// list are well under one megabyte.
const MaxSize = 2 << 20

// read reads a regular file. What else may have the name, a pipe for instance,
// would block, or could not be read again at a reload.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("configuration: %s is not a regular file: name one with --config.file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return data, nil
}

// parse makes one tree of the text; nil is an empty file.
func (d *decoder) parse(data []byte) (*yaml.Node, error) {
	if err := d.text(data); err != nil {
		return nil, err
	}
	data = bytes.TrimPrefix(data, bom)
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, d.syntax(data, err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, d.errorAt(&second, "a second document begins: one per file, remove the line ---")
	case !errors.Is(err, io.EOF):
		return nil, d.syntax(data, err)
	}
	return doc.Content[0], nil
}

var bom = []byte("\xef\xbb\xbf")

// text refuses what the YAML parser would refuse without telling where, and what
// it would take for another encoding.
func (d *decoder) text(data []byte) error {
	if len(data) > MaxSize {
		return fmt.Errorf("%s: larger than %d bytes: make it smaller", d.file, MaxSize)
	}
	data = bytes.TrimPrefix(data, bom)
	line, col := 1, 1
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return d.errorf(line, col, "byte 0x%02x is not UTF-8: save the file as UTF-8", data[i])
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			return d.errorf(line, col, "control character U+%04X: remove it", r)
		}
		if col++; r == '\n' {
			line, col = line+1, 1
		}
		i += n
	}
	return nil
}

var atLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntax gives an error of the YAML parser, which knows the line only, the column
// where that line begins, and the tab if it is one.
func (d *decoder) syntax(data []byte, err error) error {
	m := atLine.FindStringSubmatch(oneLine(err.Error()))
	if m == nil {
		return d.errorf(1, 1, "%s", oneLine(err.Error()))
	}
	line := 1
	if m[1] != "" {
		line, _ = strconv.Atoi(m[1])
	}
	lines := strings.Split(string(data), "\n")
	line = min(max(line, 1), len(lines))
	// The parser counts from nought in some places: the tab is in this line or the next.
	for l := line; l <= min(line+1, len(lines)); l++ {
		if col := tab(lines[l-1]); col > 0 {
			return d.errorf(l, col, "a tab in the indentation: use spaces")
		}
	}
	text := lines[line-1]
	col := 1 + len(text) - len(strings.TrimLeft(text, " "))
	return d.errorf(line, col, "not YAML: %s", m[2])
}

// tab is the column of a tab among the blanks that a line begins with, or 0.
func tab(line string) int {
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	return 1 + strings.IndexByte(indent, '\t')
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
