package pods

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	// askFor bounds one conversation with the runtime, connecting included.
	askFor = 2 * time.Second
	// maxAnswer bounds one answer; kubelet takes as much.
	maxAnswer = 16 << 20
	// maxSandboxes is far more than a node runs.
	maxSandboxes = 4096
	// Conversations are at least minWait apart. When they fail the distance
	// doubles up to maxWait, and when they bring nothing new up to idleWait.
	minWait  = time.Second
	idleWait = 16 * time.Second
	maxWait  = time.Minute
)

// CRI asks a container runtime what its pods are called, through the socket that
// kubelet uses. It only lists. It keeps no connection: a runtime that restarts is
// no event. Answers come in the background, so that nobody waits for a runtime
// that hangs. Safe for concurrent use.
type CRI struct {
	socket string
	proc   proc
	warn   func(error)
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	names   criNames
	asked   map[string]bool // what was not there when it was first asked for
	next    time.Time       // no conversation before
	wait    time.Duration
	running bool
	failed  bool // and said so
}

// criNames are the answers. A map is never changed once it is in here.
type criNames struct {
	byUID     map[string]kubeName
	byNetNS   map[event.NetNS]kubeName
	sandboxes map[string]sandbox // by the id of the sandbox
}

type kubeName struct{ namespace, name string }

// A sandbox is a pod as the runtime knows it.
type sandbox struct {
	uid   string
	name  kubeName
	netns event.NetNS // 0 when it could not be had, or is the host's
	told  bool        // netns was asked for
}

// NewCRI is for the socket of a runtime, /run/containerd/containerd.sock or
// unix:///run/crio/crio.sock; processes that the runtime tells of are looked up
// under root, which is /proc. warn is told, once, that the runtime does not answer,
// and again only after it has answered. Nothing is asked yet.
func NewCRI(socket, root string, warn func(error)) *CRI {
	c := &CRI{socket: strings.TrimPrefix(socket, "unix://"), proc: proc(root), warn: warn, asked: map[string]bool{}, wait: minWait}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Close ends what is under way. Names stay.
func (c *CRI) Close() {
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.wg.Wait()
}

// Refresh asks now and waits for the answer, at most two seconds. For the start:
// what prints once has no time to wait in the background.
func (c *CRI) Refresh(now time.Time) {
	if c.begin(now) {
		c.converse(now)
	}
}

// name completes what the cgroup told. Only containers of this host are asked for:
// a container may make cgroups inside of its own and name them after any pod.
func (c *CRI) name(p Pod, ns event.NetNS, now time.Time) Pod {
	if p.Depth > 1 {
		return p
	}
	key := p.UID
	c.mu.Lock()
	n, ok := c.names.byUID[p.UID]
	if p.UID == "" {
		key = ns.String()
		n, ok = c.names.byNetNS[ns]
	}
	c.mu.Unlock()
	if !ok {
		c.want(key, now)
		return p
	}
	p.Namespace, p.Name = n.namespace, n.name
	return p
}

// want asks in the background if it is time. What is missing for the first time is
// a new pod, or none at all.
func (c *CRI) want(key string, now time.Time) {
	c.mu.Lock()
	if !c.asked[key] {
		if len(c.asked) >= maxSpaces {
			clear(c.asked)
		}
		c.asked[key] = true
		if !c.failed {
			c.next = c.next.Add(minWait - c.wait)
			c.wait = minWait
		}
	}
	c.mu.Unlock()
	if c.begin(now) {
		go c.converse(now)
	}
}

// begin claims the conversation; whoever got true has to converse.
func (c *CRI) begin(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || now.Before(c.next) || c.ctx.Err() != nil {
		return false
	}
	c.running = true
	c.wg.Add(1)
	return true
}

// converse is one conversation, and when the next one may be.
func (c *CRI) converse(now time.Time) {
	defer c.wg.Done()
	ctx, cancel := context.WithTimeout(c.ctx, askFor)
	defer cancel()
	begun := time.Now()
	news, err := c.ask(ctx)
	c.mu.Lock()
	tell := err != nil && !c.failed && c.ctx.Err() == nil
	c.running, c.failed = false, err != nil
	switch {
	case err != nil:
		c.wait = min(2*c.wait, maxWait)
	case news:
		c.wait = minWait
	default:
		c.wait = min(2*c.wait, idleWait)
	}
	c.next = now.Add(time.Since(begun) + c.wait)
	c.mu.Unlock()
	if tell && c.warn != nil {
		c.warn(fmt.Errorf("names of pods: %w; check --cri.socket %s (crictl --runtime-endpoint unix://%s pods)", err, c.socket, c.socket))
	}
}

// ask lists the sandboxes and publishes what it learns, names before namespaces:
// the list is one call, and the rest is one call for each new sandbox.
func (c *CRI) ask(ctx context.Context) (news bool, err error) {
	conn, err := c.dial()
	if err != nil {
		return false, err
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	c.mu.Lock()
	old := c.names.sandboxes
	c.mu.Unlock()
	boxes, err := list(ctx, client)
	if err != nil {
		return false, err
	}
	for id := range boxes {
		if o, ok := old[id]; ok {
			boxes[id] = o
		} else {
			news = true
		}
	}
	c.publish(boxes)
	c.locate(ctx, client, boxes)
	c.publish(boxes)
	return news, nil
}

// dial connects when the first call is made. No name is resolved and no proxy of
// the environment is asked.
func (c *CRI) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket of this host: its file mode is the lock
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.socket)
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(64<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}

func (c *CRI) publish(boxes map[string]sandbox) {
	n := criNames{byUID: map[string]kubeName{}, byNetNS: map[event.NetNS]kubeName{}, sandboxes: map[string]sandbox{}}
	for id, b := range boxes {
		n.sandboxes[id] = b
		n.byUID[b.uid] = b.name
		if b.netns != 0 {
			n.byNetNS[b.netns] = b.name
		}
	}
	c.mu.Lock()
	c.names = n
	c.mu.Unlock()
}
