package pods

import "strings"

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
