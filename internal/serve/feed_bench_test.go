package serve

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/config"
)

// R16: a reload with ten thousand entries of the allow list, from the file until they
// hold, in less than 100 ms.
func BenchmarkReload10k(b *testing.B) {
	file := filepath.Join(b.TempDir(), "c.yml")
	write := func(owner string) {
		var text strings.Builder
		text.WriteString("web: {listen: ['127.0.0.1:0']}\ndetect:\n  allow:\n")
		for i := range 10_000 {
			fmt.Fprintf(&text, "    - prefix: 10.%d.%d.0/24\n      owner: %s\n      until: 2127-01-02\n", i/256, i%256, owner)
		}
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("a")
	s, err := newServer(Options{Load: func() (*config.Config, error) { return config.Load(file) }, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	defer s.web.Serve(ctx)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		write(fmt.Sprint("owner", i))
		b.StartTimer()
		if err := s.Reload(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
