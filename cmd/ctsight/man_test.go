package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra/doc"
)

// TestManPages writes the pages, for deploy/package.sh, where CTSIGHT_MAN says; it is
// a test because the package that renders them has no business in the binary.
func TestManPages(t *testing.T) {
	dir := os.Getenv("CTSIGHT_MAN")
	if dir == "" {
		dir = t.TempDir()
	}
	root := newRoot(io.Discard, io.Discard)
	root.DisableAutoGenTag = true
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "ctsight", Manual: "ctsight"}, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ctsight.1", "ctsight-serve.1", "ctsight-trace.1", "ctsight-detect.1", "ctsight-explain.1", "ctsight-plan.1", "ctsight-report.1", "ctsight-relief-set.1", "ctsight-relief-expire.1"} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(page, []byte(".nh\n.TH ")) || !bytes.Contains(page, []byte("\n.SH OPTIONS")) {
			t.Errorf("%s: %.200s", name, page)
		}
	}
}
