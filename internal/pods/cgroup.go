package pods

import "strings"

const (
	// maxLines is more than a kernel has cgroup hierarchies.
	maxLines = 64
	// maxLayers bounds containers in containers; deeper ones are told as the last.
	maxLayers = 4
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
