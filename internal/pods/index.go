package pods

import (
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	// freshFor is how long an answer is used again without a look at /proc, and
	// how far apart two walks through all processes are at least.
	freshFor = time.Second
	// lateFor is how far apart the walks become for a namespace of which nothing
	// can be told: it has no process, or that of a login session.
	lateFor = 8 * time.Second
	// keepGone is how long a namespace without processes keeps its name: its last
	// events are told after its end, and its number goes to another one soon.
	keepGone = 10 * time.Second
	// forgetAfter is how long one stays that nobody asks for.
	forgetAfter = time.Minute
)

// Index knows which pod or container a network namespace belongs to. One walk
// through /proc finds all namespaces and reads one cgroup of each new one. A name
// that is known stays while the process that told it is in the namespace: that
// costs one readlink a second, and only where somebody asks. Safe for concurrent use.
type Index struct {
	mu     sync.Mutex
	proc   proc
	cri    *CRI
	spaces map[event.NetNS]*space
	walked time.Time
}

// A space is a network namespace and what is known of it.
type space struct {
	pod     Pod
	shown   Pod // whose text is
	text    string
	witness int  // a process that is inside; 0 when there is none
	host    bool // process 1 is inside
	seen    time.Time
	asked   time.Time     // when /proc was last looked at for it
	wait    time.Duration // until the next look
}

// settled says that there is nothing to wait for: a unit in a namespace may be the
// plugin that prepares it for a pod.
func (s *space) settled() bool { return s.host || s.pod.Depth > 0 }

// NewIndex looks at the processes under root, /proc outside of tests, and takes
// names from cri unless that is nil. It reads nothing yet.
func NewIndex(root string, cri *CRI) *Index {
	return &Index{proc: proc(root), cri: cri, spaces: map[event.NetNS]*space{}}
}

// Name is what to call the namespace, "" when it is not known whose it is.
func (x *Index) Name(ns event.NetNS, now time.Time) string { return x.Better("", ns, now) }

// Better is what to call a namespace that has the name under /run/netns: that, if a
// person gave it. One that a runtime made up gives way to a pod or container, not to
// a unit: that may be the plugin that prepares the namespace.
func (x *Index) Better(name string, ns event.NetNS, now time.Time) string {
	if name != "" && !Generated(name) {
		return name
	}
	p, ok := x.Pod(ns, now)
	if !ok || (name != "" && p.unitOnly()) {
		return name
	}
	return x.text(p, ns)
}

// text is p.String, made once: it is asked for with every event.
func (x *Index) text(p Pod, ns event.NetNS) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.spaces[ns]
	if s == nil {
		return p.String()
	}
	if s.shown != p {
		s.shown, s.text = p, p.String()
	}
	return s.text
}

// Pod is whom the namespace belongs to. The one of process 1 is the host's,
// whoever else is in it, unless process 1 is in a container itself.
func (x *Index) Pod(ns event.NetNS, now time.Time) (Pod, bool) {
	p, host := x.find(ns, now)
	if x.cri != nil && !host {
		p = x.cri.name(p, ns, now)
	}
	return p, p.worth() > 0 || p.Name != ""
}

// find tells what is known after as much of a look as is due.
func (x *Index) find(ns event.NetNS, now time.Time) (Pod, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.spaces[ns]
	if s == nil {
		if s = x.add(ns, now); s == nil {
			return Pod{}, false
		}
	}
	if now.Sub(s.asked) >= s.wait {
		x.look(ns, s, now)
	}
	if s.witness == 0 && now.Sub(s.seen) > keepGone {
		s.pod = Pod{}
	}
	return s.pod, s.host
}

// add makes room for a namespace, nil when there is none. A look is due at once.
func (x *Index) add(ns event.NetNS, now time.Time) *space {
	if len(x.spaces) >= maxSpaces {
		return nil
	}
	s := &space{seen: now}
	x.spaces[ns] = s
	return s
}

// look asks the witness, and walks when that is gone or had nothing to tell.
func (x *Index) look(ns event.NetNS, s *space, now time.Time) {
	s.asked = now
	if s.settled() && x.proc.netns(s.witness) == ns {
		s.seen, s.wait = now, freshFor
		return
	}
	if now.Sub(x.walked) < freshFor {
		s.wait = freshFor - now.Sub(x.walked)
		return
	}
	s.wait = min(max(2*s.wait, freshFor), lateFor)
	x.walk(now)
	if s.settled() {
		s.wait = freshFor
	}
}

// walk goes through all processes and brings all namespaces up to date.
func (x *Index) walk(now time.Time) {
	x.walked = now
	all, host := x.proc.members(), x.host()
	for ns, pids := range all {
		s := x.spaces[ns]
		if s == nil {
			if s = x.add(ns, now); s == nil {
				continue
			}
			s.asked, s.wait = now, freshFor
		}
		s.seen = now
		if isHost := ns == host; !s.settled() || s.host != isHost || !slices.Contains(pids, s.witness) {
			x.tell(s, pids, isHost)
		}
	}
	for ns, s := range x.spaces {
		if len(all[ns]) > 0 {
			continue
		}
		s.witness = 0
		if now.Sub(max2(s.seen, s.asked)) > forgetAfter {
			delete(x.spaces, ns)
		}
	}
}

// host is the namespace that has no name of a container, of which many may be in
// it: that of process 1, or our own where we may not look at process 1.
func (x *Index) host() event.NetNS {
	if ns := x.proc.netns(1); ns != 0 {
		return ns
	}
	return x.proc.netns(os.Getpid())
}

// tell reads cgroups until one is that of a container of this host. In the
// namespace of a node of kind there are its own processes and those of pods with
// host networking: the outermost layer is whose it is. The name of a pod whose
// first container was replaced does not change.
func (x *Index) tell(s *space, pids []int, host bool) {
	if host {
		pids = pids[:1]
	}
	best, witness := Pod{}, pids[0]
	for _, pid := range pids {
		p, ok := x.proc.cgroup(pid)
		if !ok || !better(p, best) {
			continue
		}
		best, witness = p, pid
		if p.Depth == 1 {
			break
		}
	}
	if host && best.Depth == 0 {
		best = Pod{}
	}
	if best.UID == "" || best.UID != s.pod.UID || best.In != s.pod.In {
		s.pod = best
	}
	s.witness, s.host = witness, host
}

// better prefers containers to units, and the outer to the inner.
func better(p, than Pod) bool {
	if p.Depth == 0 || than.Depth == 0 {
		return p.Depth > than.Depth || than.worth() == 0
	}
	return p.Depth < than.Depth
}

func max2(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
