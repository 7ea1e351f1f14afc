package page

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The whole document of a night, byte for byte.
func TestGolden(t *testing.T) {
	got := write(t, gateway())
	file := filepath.Join("testdata", "gateway.html")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: look at it, then go test ./internal/page -update", file)
	}
	if len(got) > 150_000 {
		t.Errorf("%d bytes", len(got))
	}
}

func BenchmarkWrite(b *testing.B) {
	s := gateway()
	p := New(Options{Names: names})
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Write(io.Discard, s); err != nil {
			b.Fatal(err)
		}
	}
}
