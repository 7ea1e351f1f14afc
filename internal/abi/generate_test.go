package abi_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// compiler is what the committed objects were made with.
const compiler = "Debian clang version 14."

// TestGenerated makes the objects again, by the lines of gen.go, and compares
// them with the committed ones byte by byte.
func TestGenerated(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles for some seconds")
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	must(t, err)
	lines := generators(t, filepath.Join(root, "gen.go"))
	tmp := t.TempDir()
	for _, l := range lines {
		if why := unusable(l.cc); why != "" {
			t.Skip(why)
		}
		cmd := exec.Command(l.args[0], l.into(t, tmp)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(l.args, " "), err, out)
		}
	}
	made := files(t, tmp)
	for name, got := range made {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("%s is not committed: run make generate", name)
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what bpf/ makes (%s): run make generate", name, firstDifference(got, want))
		}
	}
	for name := range files(t, ".") {
		if _, ok := made[name]; !ok {
			t.Errorf("%s is made by no line of gen.go", name)
		}
	}
}

// generator is one go:generate line.
type generator struct {
	args []string
	cc   string
}

var word = regexp.MustCompile(`"[^"]*"|\S+`)

func generators(t *testing.T, file string) (out []generator) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	for _, line := range strings.Split(string(text), "\n") {
		rest, ok := strings.CutPrefix(line, "//go:generate ")
		if !ok {
			continue
		}
		g := generator{cc: "clang"}
		for _, w := range word.FindAllString(rest, -1) {
			g.args = append(g.args, strings.Trim(w, `"`))
		}
		if i := slices.Index(g.args, "-cc"); i >= 0 {
			g.cc = g.args[i+1]
		}
		out = append(out, g)
	}
	if len(out) == 0 {
		t.Fatal("gen.go generates nothing")
	}
	return out
}

// into returns the arguments with another directory for what is made.
func (g generator) into(t *testing.T, dir string) []string {
	t.Helper()
	args := slices.Clone(g.args[1:])
	i := slices.Index(args, "-output-dir")
	if i < 0 {
		t.Fatalf("no -output-dir in %v", args)
	}
	args[i+1] = dir
	return args
}

// unusable says why a compiler will not make the same bytes.
func unusable(cc string) string {
	out, err := exec.Command(cc, "--version").Output()
	if err != nil {
		return fmt.Sprintf("needs clang 14 of Debian bookworm: there is no %s", cc)
	}
	if line, _, _ := strings.Cut(string(out), "\n"); !strings.HasPrefix(line, compiler) {
		return fmt.Sprintf("needs clang 14 of Debian bookworm: %s is %s", cc, line)
	}
	return ""
}

// files returns the generated files of a directory.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, pattern := range []string{"*_bpfel.go", "*_bpfel.o"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		must(t, err)
		for _, n := range names {
			data, err := os.ReadFile(n)
			must(t, err)
			out[filepath.Base(n)] = data
		}
	}
	return out
}

func firstDifference(a, b []byte) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d bytes instead of %d", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Sprintf("from byte %d on", i)
		}
	}
	return "not at all"
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
