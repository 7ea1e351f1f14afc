package vm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// member is one entry as read back.
type member struct {
	name string
	mode uint32
	body string
}

// readCPIO reads one archive and returns what follows it.
func readCPIO(t *testing.T, b []byte) ([]member, []byte) {
	t.Helper()
	align := func(n int) int { return (n + 3) &^ 3 }
	var all []member
	for off := 0; ; {
		h := b[off : off+110]
		if string(h[:6]) != "070701" {
			t.Fatalf("no header at offset %d: %q", off, h[:6])
		}
		field := func(i int) int {
			v, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(v)
		}
		size, namesize := field(6), field(11)
		name := string(b[off+110 : off+110+namesize-1])
		body := align(off + 110 + namesize)
		off = align(body + size)
		if name == "TRAILER!!!" {
			return all, b[(off+cpioBlock-1)/cpioBlock*cpioBlock:]
		}
		all = append(all, member{name, uint32(field(1)), string(b[body : body+size])})
	}
}

// sample writes an archive with every kind of entry.
func sample(t *testing.T) []byte {
	t.Helper()
	host := t.TempDir()
	mustWrite(t, filepath.Join(host, "sub/x.txt"), "xyz")
	if err := os.Symlink("x.txt", filepath.Join(host, "sub/link")); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	err := archive(&buf, func(c *cpioWriter) error {
		for _, err := range []error{
			c.dir("a/b", 0o755), c.bytes("a/b/f", 0o755, []byte("hello")), c.bytes("a/b/f", 0o644, []byte("again")),
			c.symlink("l", "a/b/f"), c.node("dev/null", 0o666, 1, 3), c.tree("t", host),
		} {
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestCPIOReadsBack(t *testing.T) {
	got, rest := readCPIO(t, sample(t))
	want := []member{
		{"a", 0o040755, ""}, {"a/b", 0o040755, ""}, {"a/b/f", 0o100755, "hello"}, {"l", 0o120777, "a/b/f"},
		{"dev", 0o040755, ""}, {"dev/null", 0o020666, ""},
		{"t", 0o040755, ""}, {"t/sub", 0o040755, ""}, {"t/sub/link", 0o120777, "x.txt"}, {"t/sub/x.txt", 0o100644, "xyz"},
	}
	if !slices.Equal(got, want) || len(rest) != 0 {
		t.Errorf("got %v and %d bytes\nwant %v", got, len(rest), want)
	}
}

func TestCPIOConcatenates(t *testing.T) {
	one := sample(t)
	first, rest := readCPIO(t, append(slices.Clone(one), one...))
	second, rest := readCPIO(t, rest)
	if !slices.Equal(first, second) || len(rest) != 0 {
		t.Errorf("got %v, then %v and %d bytes", first, second, len(rest))
	}
}

func TestCPIOAgainstTool(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("needs cpio")
	}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(sample(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const want = "a a/b a/b/f l dev dev/null t t/sub t/sub/link t/sub/x.txt"
	if got := strings.Join(strings.Fields(string(out)), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestGuestName(t *testing.T) {
	for _, tt := range [][2]string{
		{"/lib/x/libc.so", "usr/lib/x/libc.so"}, {"/bin/sh", "usr/bin/sh"}, {"/lib64/ld.so", "usr/lib64/ld.so"},
		{"/library/x", "library/x"}, {"/usr/lib/x", "usr/lib/x"}, {"/a/../sbin/ip", "usr/sbin/ip"}, {"/var/run/x", "run/x"},
	} {
		if got := guestName(tt[0]); got != tt[1] {
			t.Errorf("%s: got %s, want %s", tt[0], got, tt[1])
		}
	}
}

func ExampleSpec_script() {
	s := Spec{Env: []string{"A=it's"}, Dir: "/x y", Command: []string{"echo", "$HOME"}}
	lines := strings.Split(s.script("6.1"), "\n")
	fmt.Println(strings.Join(lines[5:], "\n"))
	// Output:
	// export CTSIGHT_VM='6.1'
	// export A='it'\''s'
	// cd '/x y' || exit 127
	// exec 'echo' '$HOME'
}
