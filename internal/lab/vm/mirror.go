package vm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// EnvMirror and EnvSecurity override the mirrors found in the apt configuration.
const (
	EnvMirror   = "CTSIGHT_LAB_MIRROR"
	EnvSecurity = "CTSIGHT_LAB_MIRROR_SECURITY"
)

// source is one place packages come from, as far as we need to know it.
type source struct {
	uri    string
	suites string
	signed string
}

// security reports whether s carries security updates.
func (s source) security() bool { return strings.Contains(s.suites, "-security") }

// debian reports whether s looks like Debian rather than a vendor's repository.
func (s source) debian() bool {
	path := strings.TrimSuffix(s.uri, "/")
	return strings.Contains(s.signed, "debian-archive") || strings.HasSuffix(path, "/debian") ||
		strings.HasSuffix(path, "/debian-security")
}

// mirrors are the two addresses kernels are taken from; security may be empty.
type mirrors struct{ main, security string }

// findMirrors reads the machine's own apt configuration, so that no address is written here.
func findMirrors(etc string) (mirrors, error) {
	m := mirrors{main: os.Getenv(EnvMirror), security: os.Getenv(EnvSecurity)}
	if m.main != "" {
		return m, nil
	}
	sources, err := readSources(etc)
	if err != nil {
		return mirrors{}, err
	}
	m = pickMirrors(sources)
	if m.main == "" {
		return mirrors{}, fmt.Errorf("%w under %s: set %s", ErrNoMirror, etc, EnvMirror)
	}
	return m, nil
}

// pickMirrors prefers Debian's own repositories and otherwise takes the first.
func pickMirrors(all []source) mirrors {
	debian := slices.DeleteFunc(slices.Clone(all), func(s source) bool { return !s.debian() })
	var m mirrors
	for _, s := range append(debian, all...) {
		switch {
		case s.security() && m.security == "" && s.debian():
			m.security = s.uri
		case !s.security() && m.main == "":
			m.main = s.uri
		}
	}
	return m
}

// readSources reads the deb822 files, and sources.list as a fallback.
func readSources(etc string) ([]source, error) {
	files, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*.sources"))
	if err != nil {
		return nil, fmt.Errorf("list apt sources: %w", err)
	}
	var all []source
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read apt sources: %w", err)
		}
		all = append(all, parseDeb822(string(b))...)
	}
	b, err := os.ReadFile(filepath.Join(etc, "sources.list"))
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read apt sources: %w", err)
	}
	return append(all, parseOneLine(string(b))...), nil
}

// parseDeb822 reads the stanzas of a .sources file.
func parseDeb822(text string) []source {
	var all []source
	for _, st := range parseStanzas(text) {
		uris := strings.Fields(st["uris"])
		if len(uris) == 0 || !slices.Contains(strings.Fields(st["types"]), "deb") || st["enabled"] == "no" {
			continue
		}
		all = append(all, source{uri: uris[0], suites: st["suites"], signed: st["signed-by"]})
	}
	return all
}

// parseOneLine reads the `deb [options] uri suite components` lines of a sources.list.
func parseOneLine(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if opts, after, ok := strings.Cut(rest, "]"); ok && strings.HasPrefix(rest, "[") {
			s.signed, rest = opts, after
		}
		if f := strings.Fields(rest); len(f) >= 2 {
			s.uri, s.suites = f[0], f[1]
			all = append(all, s)
		}
	}
	return all
}

// parseStanzas reads RFC 822 style paragraphs: field names in lower case, continuation lines
// joined with a space, comments dropped. apt's sources and package records share this form.
func parseStanzas(text string) []map[string]string {
	var all []map[string]string
	cur, field := map[string]string{}, ""
	flush := func() {
		if len(cur) > 0 {
			all = append(all, cur)
		}
		cur, field = map[string]string{}, ""
	}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		switch name, value, ok := strings.Cut(line, ":"); {
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				cur[field] += " " + strings.TrimSpace(line)
			}
		case ok:
			field = strings.ToLower(name)
			cur[field] = strings.TrimSpace(value)
		}
	}
	flush()
	return all
}
