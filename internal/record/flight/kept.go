package flight

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kept is what is kept of a moment.
type Kept struct {
	Name  string
	Dir   string
	Bytes int64
	Why   string // what was told first
}

// keep is one that is asked for.
type keep struct {
	name        string
	from, until time.Time
	whys        []string        // not written yet
	held        map[string]bool // files that are in it
	failed      bool            // the last time
}

const (
	whyName = "why.txt"
	whyMost = 64 << 10 // bytes of it
	// whysWait is how many lines of it wait at most for a disk that takes none.
	whysWait = 256
	// mostKept is how many there are at most, whatever their size.
	mostKept = 200
	// patience is for how long what could not be kept is tried again.
	patience = time.Hour
)

// Keep keeps what was recorded between two times under a name, with a line that says why;
// what comes until then is kept as it comes. A second time adds to it. It returns the
// directory, which is there in a second or so. What is kept is bounded too: the oldest
// makes room.
func (r *Ring) Keep(name string, from, until time.Time, why string) (string, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") || name[0] == '.' {
		return "", fmt.Errorf("%q is no name for what is kept", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = ask(r.asked, keep{name: name, from: from, until: until, whys: []string{strings.ReplaceAll(why, "\n", " ")}, held: map[string]bool{}})
	return r.path(name), nil
}

func (r *Ring) path(name string) string { return filepath.Join(r.c.Dir, keptDir, name) }

// tend does what was asked for, and looks again at what is kept where that has changed or
// may have. What cannot be done now is tried again.
func (r *Ring) tend(now time.Time, changed bool) {
	r.mu.Lock()
	asked := r.asked
	r.asked = nil
	r.mu.Unlock()
	for i := range asked {
		r.keeps = ask(r.keeps, asked[i])
	}
	r.keepsErr = nil
	changed = changed || len(asked) > 0
	for i := range r.keeps {
		more, err := r.fill(&r.keeps[i])
		changed = changed || more
		r.keeps[i].failed = err != nil
		r.keepsErr = errors.Join(r.keepsErr, err)
	}
	r.keeps = slices.DeleteFunc(r.keeps, func(k keep) bool { return now.After(k.until) && (!k.failed || now.After(k.until.Add(patience))) })
	if changed {
		r.keepsErr = errors.Join(r.keepsErr, r.letGo())
	}
}

// ask adds one, to that of the same name where there is one.
func ask(all []keep, k keep) []keep {
	i := slices.IndexFunc(all, func(x keep) bool { return x.name == k.name })
	if i < 0 {
		return append(all, k)
	}
	x := &all[i]
	if k.from.Before(x.from) {
		x.from = k.from
	}
	if k.until.After(x.until) {
		x.until = k.until
	}
	if len(x.whys) < whysWait {
		x.whys = append(x.whys, k.whys...)
	}
	return all
}

// fill makes a second name for each file of the ring that is to be kept: it is there until
// both are gone.
func (r *Ring) fill(k *keep) (more bool, err error) {
	dir := r.path(k.name)
	for i := range r.all {
		s := &r.all[i]
		if k.held[s.path] || s.begin.After(k.until) || !s.end.IsZero() && s.end.Before(k.from) {
			continue
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return more, err
		}
		if err := os.Link(s.path, filepath.Join(dir, filepath.Base(s.path))); err != nil && !errors.Is(err, os.ErrExist) {
			return more, err
		}
		k.held[s.path], more = true, true
	}
	if len(k.whys) == 0 {
		return more, nil
	}
	if err := note(dir, k.whys); err != nil {
		return more, err
	}
	k.whys = nil
	return true, nil
}

// note adds lines to what says why.
func note(dir string, whys []string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, whyName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Size() < whyMost {
		_, err = f.WriteString(strings.Join(whys, "\n") + "\n")
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// letGo removes what was kept longest ago, but not the last one.
func (r *Ring) letGo() (err error) {
	if r.kept, err = listKept(r.c.Dir); err != nil {
		return err
	}
	total := int64(0)
	for _, k := range r.kept {
		total += k.Bytes
	}
	for len(r.kept) > 1 && (total > r.c.Kept || len(r.kept) > mostKept) {
		oldest := r.kept[0]
		if err := os.RemoveAll(oldest.Dir); err != nil {
			return err
		}
		total -= oldest.Bytes
		r.kept = r.kept[1:]
		r.keeps = slices.DeleteFunc(r.keeps, func(k keep) bool { return k.name == oldest.Name })
	}
	return nil
}

// listKept is what is kept, the one with the oldest file first.
func listKept(dir string) (all []Kept, err error) {
	root := filepath.Join(dir, keptDir)
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	first := map[string]string{}
	for _, e := range entries {
		k := Kept{Name: e.Name(), Dir: filepath.Join(root, e.Name())}
		files, err := os.ReadDir(k.Dir)
		if err != nil || k.Name[0] == '.' {
			continue // not a directory, not ours
		}
		for _, f := range files { // by name, which is by time
			info, err := f.Info()
			if err != nil || !strings.HasSuffix(f.Name(), suffix) {
				continue
			}
			if k.Bytes += info.Size(); first[k.Name] == "" {
				first[k.Name] = f.Name()
			}
		}
		k.Why = whyOf(k.Dir)
		all = append(all, k)
	}
	slices.SortStableFunc(all, func(a, b Kept) int { return strings.Compare(first[a.Name], first[b.Name]) })
	return all, nil
}

// whyOf is the first line of what says why.
func whyOf(dir string) string {
	f, err := os.Open(filepath.Join(dir, whyName))
	if err != nil {
		return ""
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan()
	return s.Text()
}
