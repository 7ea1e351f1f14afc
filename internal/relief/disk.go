package relief

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is a Disk that is a directory. It and its files belong to who changes sysctls,
// and everybody may read them: what is in them is no secret, and a daemon that is not
// root shall be able to tell of it.
type Dir string

// Make implements Disk.
func (d Dir) Make() error {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return fmt.Errorf("journal: %w (run as root, or --dir another)", err)
	}
	return d.trusted()
}

// trusted refuses a directory in which others may write: what is in it decides which
// values root writes.
func (d Dir) trusted() error {
	st, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	return owned(string(d), st)
}

func owned(name string, st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || sys.Uid != 0 && int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: others than root may write it: chown root and chmod go-w", name)
	}
	return nil
}

// Lock implements Disk.
func (d Dir) Lock() (func() error, error) {
	f, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	if err := d.trusted(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", d, err), f.Close())
	}
	return f.Close, nil
}

// List implements Disk.
func (d Dir) List() ([]string, error) {
	all, err := os.ReadDir(string(d))
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names, err
}

// Read implements Disk. It opens neither links nor pipes.
func (d Dir) Read(name string, most int) ([]byte, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is no file")
	}
	if err := owned(name, st); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("it is longer than %d bytes", most)
	}
	return data, err
}

// Create implements Disk.
func (d Dir) Create(name string, data []byte) error {
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()) // whatever the umask
}

// Rename implements Disk.
func (d Dir) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

// Sync implements Disk.
func (d Dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove implements Disk.
func (d Dir) Remove(name string) error { return os.Remove(d.path(name)) }

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }
