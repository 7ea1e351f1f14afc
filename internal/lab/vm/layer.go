package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// layerFormat is part of the name of cached layers; raise it when their making changes.
const layerFormat = 1

// cachedLayer returns the archive at path, and writes it first when it does not exist.
func cachedLayer(ctx context.Context, path string, write func(*cpioWriter) error) (string, error) {
	unlock, err := lock(ctx, filepath.Join(filepath.Dir(path), "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp := path + ".tmp"
	defer os.Remove(tmp)
	if err := writeArchive(tmp, write); err != nil {
		return "", fmt.Errorf("make %s: %w", filepath.Base(path), err)
	}
	return path, os.Rename(tmp, path)
}

// writeArchive makes one archive file.
func writeArchive(path string, write func(*cpioWriter) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := archive(f, write); err != nil {
		return err
	}
	return f.Close()
}

// archive writes one complete archive to w.
func archive(w io.Writer, write func(*cpioWriter) error) error {
	c := newCPIO(w)
	if err := write(c); err != nil {
		return err
	}
	return c.close()
}

// pruneLayers removes layers of tools that are too old for a run to be starting with them.
func pruneLayers(cache string) {
	old, _ := filepath.Glob(filepath.Join(cache, "tools-*.cpio"))
	for _, f := range old {
		if st, err := os.Stat(f); err == nil && time.Since(st.ModTime()) > 24*time.Hour {
			os.Remove(f)
		}
	}
}
