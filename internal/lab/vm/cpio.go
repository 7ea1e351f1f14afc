package vm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// cpioWriter writes a "newc" archive, the format of an initramfs. Parent directories are
// made as needed, names seen before are skipped, times are zero: equal input, equal bytes.
type cpioWriter struct {
	w    *bufio.Writer
	off  int64
	ino  uint32
	seen map[string]bool
}

// File type bits of a cpio mode; the same as the kernel's S_IFMT family.
const (
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
)

// cpioBlock is what an archive is padded to. The kernel wants the next one 4-byte aligned.
const cpioBlock = 512

// cpioEntry is one header of the archive.
type cpioEntry struct {
	name         string
	mode         uint32
	size         int64
	major, minor uint32 // of a device node
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: bufio.NewWriterSize(w, 1<<20), seen: map[string]bool{"": true}}
}

// mergedDirs are symbolic links in the guest. A later archive that names a directory below one
// of them would make the kernel replace the link, so names are rewritten on the way in.
var mergedDirs = map[string]string{
	"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "run",
}

// guestName turns an absolute guest path into the name it has in the archive.
func guestName(p string) string {
	name := strings.TrimPrefix(path.Clean("/"+p), "/")
	for link, target := range mergedDirs {
		if rest, ok := strings.CutPrefix(name, link+"/"); ok {
			return target + "/" + rest
		}
	}
	return name
}

// dir adds a directory and its parents.
func (c *cpioWriter) dir(name string, perm uint32) error {
	if c.seen[name] {
		return nil
	}
	return c.entry(cpioEntry{name: name, mode: modeDir | perm}, nil)
}

// symlink adds a symbolic link.
func (c *cpioWriter) symlink(name, target string) error {
	return c.entry(cpioEntry{name: name, mode: modeSymlink | 0o777, size: int64(len(target))}, strings.NewReader(target))
}

// bytes adds a file with the given content.
func (c *cpioWriter) bytes(name string, perm uint32, b []byte) error {
	return c.entry(cpioEntry{name: name, mode: modeRegular | perm, size: int64(len(b))}, bytes.NewReader(b))
}

// node adds a character device.
func (c *cpioWriter) node(name string, perm, major, minor uint32) error {
	return c.entry(cpioEntry{name: name, mode: modeChar | perm, major: major, minor: minor}, nil)
}

// host adds a file or a whole directory of the host as name. A link given here, such as a
// library's, becomes a file; links inside a directory stay links.
func (c *cpioWriter) host(name, host string) error {
	st, err := os.Stat(host)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return c.tree(name, host)
	}
	return c.file(name, host)
}

// tree adds a directory of the host under name.
func (c *cpioWriter) tree(name, host string) error {
	return filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		return c.hostEntry(path.Join(name, filepath.ToSlash(rel)), p, d)
	})
}

// hostEntry adds one file of the host; sockets and devices are left out.
func (c *cpioWriter) hostEntry(name, host string, d fs.DirEntry) error {
	switch {
	case d.IsDir():
		return c.dir(name, 0o755)
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(host)
		if err != nil {
			return err
		}
		return c.symlink(name, target)
	case d.Type().IsRegular():
		return c.file(name, host)
	}
	return nil
}

// file adds a copy of a host's file, following links.
func (c *cpioWriter) file(name, host string) error {
	f, err := os.Open(host)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	perm := uint32(st.Mode().Perm())
	return c.entry(cpioEntry{name: name, mode: modeRegular | perm, size: st.Size()}, f)
}

// entry writes the parents, the header and the content.
func (c *cpioWriter) entry(e cpioEntry, content io.Reader) error {
	if c.seen[e.name] {
		return nil
	}
	if p := path.Dir(e.name); p != "." {
		if err := c.dir(p, 0o755); err != nil {
			return err
		}
	}
	c.seen[e.name] = true
	if err := c.header(e); err != nil {
		return fmt.Errorf("archive %s: %w", e.name, err)
	}
	if e.size == 0 {
		return nil
	}
	n, err := io.CopyN(c.w, content, e.size)
	c.off += n
	if err != nil {
		return fmt.Errorf("archive %s: %w", e.name, err)
	}
	return c.pad(4)
}

// header writes the 110 bytes of hexadecimal fields, then the name.
func (c *cpioWriter) header(e cpioEntry) error {
	c.ino++
	nlink := 1
	if e.mode&0o170000 == modeDir {
		nlink = 2
	}
	n, err := fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, e.mode, 0, 0, nlink, 0, e.size, 0, 0, e.major, e.minor, len(e.name)+1, 0, e.name)
	c.off += int64(n)
	if err != nil {
		return err
	}
	return c.pad(4)
}

// pad writes zeros up to a multiple of n.
func (c *cpioWriter) pad(n int64) error {
	k := (n - c.off%n) % n
	c.off += k
	_, err := c.w.Write(make([]byte, k))
	return err
}

// close ends the archive and flushes it.
func (c *cpioWriter) close() error {
	if err := c.header(cpioEntry{name: "TRAILER!!!"}); err != nil {
		return err
	}
	if err := c.pad(cpioBlock); err != nil {
		return err
	}
	return c.w.Flush()
}
