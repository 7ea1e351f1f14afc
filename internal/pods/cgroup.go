package pods

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxLines is more than a kernel has cgroup hierarchies.
	maxLines = 64
	// maxLayers bounds containers in containers; deeper ones are told as the last.
	maxLayers = 4
	// maxName cuts names that are free text. Units and containers may have 255
	// bytes, and whoever may make cgroups chooses them.
	maxName = 64
	// shortID is how much of a container's id its runtime's own tools print.
	shortID = 12
)

// Pod is whom a process belongs to, as its cgroup tells. Which fields are set says
// what it is: UID for a pod, Container without UID for a container or a machine,
// Unit for a service of systemd outside of all of them.
type Pod struct {
	UID       string // of the pod; a static pod has 32 digits without dashes
	Container string // id, or the name that lxc and systemd-nspawn go by
	Runtime   string // containerd, crio, docker, podman, ...; "" when the path does not tell
	Unit      string // unit of systemd
	// In is the name of what it runs inside of: a node of kind is a container
	// itself, and a pod of a user without privilege is in user@UID. Depth counts these layers: 1 is a container of this host, 0 is none.
	In    string
	Depth int
	// Namespace and Name are those of Kubernetes. Only the runtime knows them.
	Namespace, Name string
}

// String is what to call the network namespace: namespace/name if they are known,
// else pod:UID/ID, runtime:ID, or the unit; after what it is in, if that is a container.
func (p Pod) String() string {
	s := p.Unit
	switch {
	case p.Name != "":
		s = p.Namespace + "/" + p.Name
	case p.UID != "" && p.Container != "":
		s = "pod:" + p.UID + "/" + short(p.Container)
	case p.UID != "":
		s = "pod:" + p.UID
	case p.Container != "" && p.Runtime != "":
		s = p.Runtime + ":" + short(p.Container)
	case p.Container != "":
		s = "container:" + short(p.Container)
	}
	if p.In != "" {
		return p.In + "/" + s
	}
	return s
}

// unitOnly says that nothing but a unit of systemd is known, if anything.
func (p *Pod) unitOnly() bool { return p.Name == "" && p.worth() <= 1 }

// short is for ids only: names are told whole.
func short(id string) string {
	if isID(id) {
		return id[:shortID]
	}
	return id
}

// FromCgroup reads what /proc/PID/cgroup holds: one line on cgroup v2, one per
// hierarchy on v1, both when they are mixed. Paths may be cut short at the front
// and begin with /.. when the reader is in a cgroup namespace. Of several lines
// the one that tells most counts: hierarchies that a runtime does not use stay at
// the service that started it.
func FromCgroup(data string) (Pod, bool) {
	var best Pod
	for range maxLines {
		var line string
		line, data, _ = strings.Cut(data, "\n")
		if p := fromLine(line); p.worth() > best.worth() {
			best = p
		}
		if data == "" {
			break
		}
	}
	return best, best.worth() > 0
}

// worth orders what lines of one process tell.
func (p Pod) worth() int {
	switch {
	case p.UID != "" && p.Container != "":
		return 4
	case p.UID != "":
		return 3
	case p.Container != "":
		return 2
	case p.Unit != "":
		return 1
	}
	return 0
}

// fromLine takes hierarchy:controllers:path; the path may hold colons itself.
func fromLine(line string) Pod {
	_, line, _ = strings.Cut(line, ":")
	_, path, ok := strings.Cut(line, ":")
	if !ok {
		return Pod{}
	}
	path = strings.TrimSuffix(path, " (deleted)") // of a cgroup that a process outlived
	var w walker
	for seg := range strings.SplitSeq(path, "/") {
		w.step(seg)
	}
	if w.pod.Depth > 0 {
		w.pod.Unit = ""
	}
	return w.pod
}

// walker goes down a path, from what is outside to what is inside.
type walker struct {
	pod  Pod
	prev string // the segment before
	user string // whose manager of systemd the path is below
}

func (w *walker) step(seg string) {
	defer func() { w.prev = seg }()
	// The systemd driver of runc without systemd: slice:prefix:id in one segment.
	if slice, rest, ok := strings.Cut(seg, ".slice:"); ok {
		if uid, ok := podUID(slice + ".slice"); ok {
			w.enter(Pod{UID: uid})
		}
		prefix, id, _ := strings.Cut(rest, ":")
		seg = prefix + "-" + id
	}
	if uid, ok := podUID(seg); ok {
		w.enter(Pod{UID: uid})
		return
	}
	if c, ok := container(w.prev, seg); ok {
		w.enter(c)
		return
	}
	if user, ok := cutBoth(seg, "user@", ".service"); ok {
		w.user = "user@" + clean(user)
	}
	if unit := unitName(seg); unit != "" {
		w.pod.Unit = unit
	}
}

// enter adds a layer, or what was missing in the innermost one: a pod's segment
// comes before its container's.
func (w *walker) enter(l Pod) {
	cur := &w.pod
	switch {
	case l.UID == "" && cur.UID != "" && cur.Container == "":
		cur.Container, cur.Runtime = l.Container, l.Runtime
	case cur.Depth > 0 && cur.Container == l.Container && (l.UID == "" || l.UID == cur.UID):
		// told twice, as by podman with --cgroups=split: libpod-ID.scope/libpod-payload-ID
	case cur.Depth >= maxLayers:
	default:
		l.Depth = cur.Depth + 1
		switch {
		case cur.Depth > 0:
			l.In = cur.String()
		case l.UID != "" && w.user != "":
			// The user may make cgroups here, with the UID of any pod.
			l.In, l.Depth = w.user, 2
		}
		w.pod = l
	}
}

// podUID takes podUID of the cgroupfs driver and kubepods-QOS-podUID.slice of the
// systemd driver, which has underscores for dashes and may have the name of a parent
// in front. The parents are not asked for: a cgroup namespace cuts them off.
func podUID(seg string) (string, bool) {
	if s, ok := strings.CutSuffix(seg, ".slice"); ok {
		i := strings.LastIndex(s, "-pod")
		if i < 0 {
			return "", false
		}
		return isUID(strings.ReplaceAll(s[i+len("-pod"):], "_", "-"))
	}
	s, ok := strings.CutPrefix(seg, "pod")
	if !ok {
		return "", false
	}
	return isUID(s)
}

// isUID takes a UUID, or the hash that kubelet gives to a static pod.
func isUID(s string) (string, bool) {
	if len(s) == 32 {
		return s, isHex(s)
	}
	return s, isUUID(s)
}

func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) && isHex(s[19:23]) && isHex(s[24:])
}

// isHex allocates nothing: names are judged for every event.
func isHex(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// isID says whether it is an id as runtimes make them, 256 bits.
func isID(s string) bool { return len(s) == 64 && isHex(s) }

// prefixes are what runtimes put before the id, with and without systemd.
var prefixes = []struct{ prefix, runtime string }{
	{"cri-containerd-", "containerd"},
	{"nerdctl-", "containerd"},
	{"containerd-", "containerd"},
	{"crio-", "crio"},
	{"docker-", "docker"},
	{"libpod-payload-", "podman"},
	{"libpod-", "podman"},
	{"buildkit-", "buildkit"},
}

// parents are directories whose entries are containers.
var parents = map[string]string{
	"docker": "docker", "libpod_parent": "podman", "lxc": "lxc", "lxc.payload": "lxc", "buildkit": "buildkit",
}

// container recognises a segment by its shape and by the one before it. Monitors
// (crio-conmon-ID, libpod-conmon-ID, lxc.monitor.NAME) run outside and do not match.
func container(prev, seg string) (Pod, bool) {
	s := strings.TrimSuffix(seg, ".scope")
	for _, p := range prefixes {
		if id, ok := strings.CutPrefix(s, p.prefix); ok && isID(id) {
			return Pod{Container: id, Runtime: p.runtime}, true
		}
	}
	if isID(seg) {
		return Pod{Container: seg, Runtime: parents[prev]}, true
	}
	if task, n, ok := strings.Cut(seg, "-"); ok && len(task) == 32 && isHex(task) && isDigits(n) {
		return Pod{Container: clean(seg), Runtime: "ecs"}, true // Fargate: /ecs/TASK/TASK-NUMBER
	}
	return machine(prev, seg)
}

// machine recognises what goes by a name.
func machine(prev, seg string) (Pod, bool) {
	if name, ok := strings.CutPrefix(seg, "lxc.payload."); ok && name != "" {
		return Pod{Container: clean(name), Runtime: "lxc"}, true
	}
	switch r := parents[prev]; r {
	case "lxc", "buildkit":
		return Pod{Container: clean(seg), Runtime: r}, seg != "" && seg != ".."
	}
	if name, ok := cutBoth(seg, "systemd-nspawn@", ".service"); ok {
		return Pod{Container: clean(unescape(name)), Runtime: "nspawn"}, true
	}
	if name, ok := cutBoth(seg, "machine-", ".scope"); ok {
		return Pod{Container: clean(unescape(name)), Runtime: "machine"}, true
	}
	return Pod{}, false
}

// unitName takes services, and scopes other than sessions of people.
func unitName(seg string) string {
	if strings.HasPrefix(seg, "session-") || seg == "init.scope" || strings.HasPrefix(seg, "user@") || strings.Contains(seg, "-conmon-") {
		return ""
	}
	for _, suffix := range []string{".service", ".scope"} {
		if name, ok := strings.CutSuffix(seg, suffix); ok && name != "" {
			return clean(unescape(name)) + suffix
		}
	}
	return ""
}

func cutBoth(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	s, ok2 := strings.CutSuffix(s, suffix)
	return s, ok && ok2 && s != ""
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// unescape undoes what systemd does to names of units: \x2d is a dash.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\x`) && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// clean makes text that others chose valid and short. A cut shows as "..".
func clean(s string) string {
	if len(s) > maxName {
		s = s[:maxName-2]
		for range utf8.UTFMax - 1 { // not in the middle of a character
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
		s += ".."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
