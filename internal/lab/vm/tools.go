package vm

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tool is a program of this machine that the guest gets, with its libraries.
type tool struct {
	name string
	pkg  string // Debian package; empty where the tool is optional
}

// tools lists what the guest has besides busybox. The first entry of a name wins, so these
// replace busybox applets, which differ (`ip netns` is missing there).
var tools = []tool{
	{"bash", "bash"}, {"ip", "iproute2"}, {"ss", "iproute2"}, {"tc", "iproute2"},
	{"nft", "nftables"}, {"conntrack", "conntrack"}, {"jq", "jq"},
	{"iptables", "iptables"}, {"iptables-save", "iptables"}, {"iptables-restore", "iptables"},
	{"ip6tables", "iptables"}, {"ip6tables-save", "iptables"}, {"ip6tables-restore", "iptables"},
	{"iptables-nft", "iptables"}, {"ip6tables-nft", "iptables"},
	{"kmod", "kmod"}, {"modprobe", "kmod"}, {"lsmod", "kmod"}, {"rmmod", "kmod"},
	{"insmod", "kmod"}, {"modinfo", "kmod"}, {"depmod", "kmod"},
	{"iptables-legacy", ""}, {"iptables-legacy-save", ""}, {"ip6tables-legacy", ""}, {"ip6tables-legacy-save", ""},
	{"ebtables", ""}, {"ipset", ""}, {"ipvsadm", ""}, {"ethtool", ""}, {"bpftool", ""}, {"strace", ""}, {"tcpdump", ""},
	{"hping3", ""}, {"nmap", ""}, {"nping", ""}, {"masscan", ""}, {"zmap", ""}, {"iperf3", ""}, {"socat", ""},
	{"prometheus", ""}, {"curl", ""}, {"date", ""}, {"timeout", ""}, {"unshare", ""}, {"nsenter", ""}, {"setpriv", ""}, {"capsh", ""}, {"taskset", ""}, {"prlimit", ""},
}

// toolData are files that the tools read; those that do not exist are left out.
var toolData = []string{
	"/etc/protocols", "/etc/services", "/etc/iproute2", "/usr/share/iproute2", "/etc/zmap",
	"/usr/share/nmap/nmap-services", "/usr/share/nmap/nmap-protocols", "/usr/share/nmap/nmap-payloads",
	"/usr/share/nmap/nmap-mac-prefixes", "/usr/share/nmap/nmap-rpc", "/usr/share/nmap/nmap-os-db",
}

// etcFiles are the guest's own settings.
var etcFiles = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
	"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nprotocols: files\nservices: files\n",
}

// toolbox is what goes into the layer of tools.
type toolbox struct {
	busybox string
	links   map[string]string // guest name -> resolved path, for tools started under another name
	files   []string          // programs, libraries and data of this machine, at the same path in the guest
}

// toolsLayer returns the archive with the tools, made anew when one of them changed.
func toolsLayer(ctx context.Context, cache string) (string, error) {
	box, err := findTools(ctx)
	if err != nil {
		return "", err
	}
	sum, err := box.fingerprint()
	if err != nil {
		return "", err
	}
	return cachedLayer(ctx, filepath.Join(cache, "tools-"+sum+".cpio"), func(c *cpioWriter) error {
		pruneLayers(cache)
		return box.write(ctx, c)
	})
}

// findTools locates the tools, their libraries and data.
func findTools(ctx context.Context) (toolbox, error) {
	box := toolbox{links: map[string]string{}}
	var err error
	if box.busybox, err = locate("busybox"); err != nil {
		return toolbox{}, fmt.Errorf("find busybox, install busybox-static: %w", err)
	}
	if dynamic(box.busybox) {
		return toolbox{}, fmt.Errorf("%s needs libraries: install busybox-static", box.busybox)
	}
	for _, t := range tools {
		if err := box.add(t); err != nil {
			return toolbox{}, err
		}
	}
	plugins, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		return toolbox{}, fmt.Errorf("list iptables plug-ins: %w", err)
	}
	box.files = append(box.files, plugins...)
	libs, err := libraries(ctx, box.files)
	if err != nil {
		return toolbox{}, err
	}
	box.files = append(append(box.files, libs...), existing(toolData)...)
	slices.Sort(box.files)
	box.files = slices.Compact(box.files)
	return box, nil
}

// add puts one tool into the box.
func (b *toolbox) add(t tool) error {
	path, err := locate(t.name)
	if err != nil {
		if t.pkg == "" {
			return nil
		}
		return fmt.Errorf("find %s, install %s: %w", t.name, t.pkg, err)
	}
	b.links[t.name] = path
	if !slices.Contains(b.files, path) {
		b.files = append(b.files, path)
	}
	return nil
}

// Program returns a program of this machine with its libraries, for a guest that
// needs one the others do not.
func Program(ctx context.Context, name, pkg string) ([]File, error) {
	path, err := locate(name)
	if err != nil {
		return nil, fmt.Errorf("find %s, install %s: %w", name, pkg, err)
	}
	libs, err := libraries(ctx, []string{path})
	if err != nil {
		return nil, err
	}
	files := []File{{Host: path, Guest: "/usr/bin/" + name}}
	for _, l := range libs {
		files = append(files, File{Host: l, Guest: l})
	}
	return files, nil
}

// locate finds a program and resolves links; administrators' directories are searched too.
func locate(name string) (string, error) {
	for _, dir := range append(filepath.SplitList("/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"),
		filepath.SplitList(os.Getenv("PATH"))...) {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// dynamic reports whether a program asks for a dynamic loader.
func dynamic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// libraries asks ldd which files the programs need.
func libraries(ctx context.Context, files []string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", files...).Output()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) { // ldd fails for a static program among them; the rest is listed
		return nil, fmt.Errorf("list libraries: %w", err)
	}
	return parseLdd(string(out))
}

// parseLdd reads lines such as "libc.so.6 => /lib/libc.so.6 (0x7f..)" or "/lib64/ld.so (0x7f..)".
func parseLdd(out string) ([]string, error) {
	var libs []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("missing library: %s", strings.TrimSpace(line))
		}
		left, right, ok := strings.Cut(line, "=>")
		if !ok {
			right = left
		}
		if f := strings.Fields(right); len(f) == 2 && f[0][0] == '/' {
			libs = append(libs, f[0])
		}
	}
	slices.Sort(libs)
	return slices.Compact(libs), nil
}

// existing returns those paths that exist.
func existing(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		_, err := os.Stat(p)
		return err != nil
	})
}

// fingerprint changes when a file of the box is installed anew.
func (b toolbox) fingerprint() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, layerFormat, etcFiles)
	for _, t := range tools {
		fmt.Fprintln(h, t.name, b.links[t.name])
	}
	for _, f := range append([]string{b.busybox}, b.files...) {
		st, err := os.Stat(f)
		if err != nil {
			return "", fmt.Errorf("stat tool: %w", err)
		}
		fmt.Fprintln(h, f, st.Size(), st.ModTime().UnixNano())
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16], nil
}

// write archives the box: skeleton, tools, then busybox for all names still free.
func (b toolbox) write(ctx context.Context, c *cpioWriter) error {
	if err := skeleton(c); err != nil {
		return err
	}
	for _, f := range b.files {
		if err := c.host(guestName(f), f); err != nil {
			return err
		}
	}
	for _, t := range tools {
		if path, ok := b.links[t.name]; ok {
			if err := c.link(t.name, path); err != nil {
				return err
			}
		}
	}
	if err := c.link("sh", b.links["bash"]); err != nil {
		return err
	}
	return b.applets(ctx, c)
}

// link makes name available in both /usr/bin and /usr/sbin: the kernel and scripts use full paths.
func (c *cpioWriter) link(name, target string) error {
	for _, dir := range []string{"usr/bin/", "usr/sbin/"} {
		if err := c.symlink(dir+name, "/"+guestName(target)); err != nil {
			return err
		}
	}
	return nil
}

// applets adds busybox and a link for each of its applets that no real tool provides.
func (b toolbox) applets(ctx context.Context, c *cpioWriter) error {
	out, err := exec.CommandContext(ctx, b.busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox applets: %w", err)
	}
	if err := c.file("usr/bin/busybox", b.busybox); err != nil {
		return err
	}
	for _, a := range strings.Fields(string(out)) {
		if err := c.link(a, "/usr/bin/busybox"); err != nil {
			return err
		}
	}
	return nil
}

// skeleton adds directories, links between them, the console and the guest's settings.
func skeleton(c *cpioWriter) error {
	var errs []error
	for _, d := range []string{"dev", "proc", "sys", "run", "out", "lab", "root", "var/log", "var/lib", "mnt",
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "etc"} {
		errs = append(errs, c.dir(d, 0o755))
	}
	errs = append(errs, c.dir("tmp", 0o1777),
		c.node("dev/console", 0o600, 5, 1), c.node("dev/null", 0o666, 1, 3))
	for _, link := range slices.Sorted(maps.Keys(mergedDirs)) {
		errs = append(errs, c.symlink(link, "/"+mergedDirs[link]))
	}
	for _, name := range slices.Sorted(maps.Keys(etcFiles)) {
		errs = append(errs, c.bytes(name, 0o644, []byte(etcFiles[name])))
	}
	return errors.Join(errs...)
}
