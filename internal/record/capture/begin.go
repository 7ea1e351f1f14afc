package capture

import "os"

// Begin is Create for who goes on though nothing can be written yet: such an error is in
// Err, and a Retry makes the file.
func Begin(path string, h Header) (*File, error) {
	f := &unmade{path: path}
	w, err := NewWriter(f, h)
	if w == nil {
		return nil, err
	}
	return &File{W: w, f: f}, nil
}

// unmade is a file that is made when it is first written to.
type unmade struct {
	path string
	f    *os.File
}

func (l *unmade) Write(b []byte) (n int, err error) {
	if l.f == nil {
		if l.f, err = Fresh(l.path); err != nil {
			l.f = nil
			return 0, err
		}
	}
	return l.f.Write(b)
}

// Truncate implements Disk, as those that follow: of no file there is nothing to do.
func (l *unmade) Truncate(n int64) error {
	if l.f == nil {
		return nil
	}
	return l.f.Truncate(n)
}

func (l *unmade) Seek(to int64, whence int) (int64, error) {
	if l.f == nil {
		return to, nil
	}
	return l.f.Seek(to, whence)
}

func (l *unmade) Sync() error {
	if l.f == nil {
		return nil
	}
	return l.f.Sync()
}

func (l *unmade) Close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
