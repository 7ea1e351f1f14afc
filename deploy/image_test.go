package deploy

import (
	"compress/gzip"
	"debug/elf"
	"io"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// count counts what is written.
type count int

func (c *count) Write(b []byte) (int, error) { *c += count(len(b)); return len(b), nil }

// The image has nothing but the binary, so that must ask for no loader and no library.
func TestImageBinary(t *testing.T) {
	const binary = "../bin/ctsight"
	f, err := os.Open(binary)
	if err != nil {
		t.Skip("no binary here: make build")
	}
	defer f.Close()
	e, err := elf.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%v: not static", p.Type)
		}
	}
	var packed count
	z := gzip.NewWriter(&packed)
	n, err := io.Copy(z, f)
	if err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	t.Logf("image: %.1f MB, %.1f MB in a registry", float64(n)/1e6, float64(packed)/1e6)
	if packed > 16e6 {
		t.Errorf("%d bytes packed: what has come in?", packed)
	}
}

// What to type has the capabilities that serve keeps.
func TestImageCommand(t *testing.T) {
	var got []string
	for _, m := range regexp.MustCompile(`--cap-add=(\w+)`).FindAllStringSubmatch(read(t, "../Dockerfile"), -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if d := cmp.Diff(needs(), got); d != "" {
		t.Error(d)
	}
}
