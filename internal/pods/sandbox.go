package pods

import (
	"context"
	"encoding/json"
	"path"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ctsight/ctsight/internal/event"
)

// Limits of Kubernetes: names are DNS labels or subdomains.
const (
	maxKubeNamespace = 63
	maxKubeName      = 253
	maxSandboxID     = 128
	maxUID           = 64
)

// uidChars are those of UIDs; not all of them are UUIDs (static pods, crictl runp).
const uidChars = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-"

// list asks for the sandboxes that run, by the id of the sandbox. One that is not
// as Kubernetes makes them is left out.
func list(ctx context.Context, client cri.RuntimeServiceClient) (map[string]sandbox, error) {
	r, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
		State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return nil, brief(err)
	}
	out := map[string]sandbox{}
	for _, s := range r.GetItems() {
		m := s.GetMetadata()
		b := sandbox{uid: m.GetUid(), name: kubeName{m.GetNamespace(), m.GetName()}}
		if len(out) < maxSandboxes && len(s.GetId()) <= maxSandboxID && b.valid() {
			out[s.GetId()] = b
		}
	}
	return out, nil
}

func (b sandbox) valid() bool {
	uid := b.uid != "" && len(b.uid) <= maxUID && strings.Trim(b.uid, uidChars) == ""
	return uid && isKube(b.name.namespace, maxKubeNamespace) && isKube(b.name.name, maxKubeName)
}

func isKube(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}

// brief keeps the words of an error and bounds them: the server writes them.
func brief(err error) error {
	s := status.Convert(err)
	return &callError{code: strings.ToLower(s.Code().String()), text: clip(s.Message())}
}

type callError struct{ code, text string }

// Error is the code of gRPC and what the server said.
func (e *callError) Error() string { return e.code + ": " + e.text }

func clip(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if r := []rune(s); len(r) > 200 {
		s = string(r[:198]) + ".."
	}
	return s
}

// locate finds the namespaces of sandboxes that are new, as far as time allows:
// for those whose processes are in a cgroup that tells nothing, and for those
// without a process. What fails is tried again next time.
func (c *CRI) locate(ctx context.Context, client cri.RuntimeServiceClient, boxes map[string]sandbox) {
	for id, b := range boxes {
		if b.told {
			continue
		}
		r, err := client.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue
		}
		b.told = true
		if r.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() != cri.NamespaceMode_NODE {
			b.netns = c.netns(r.GetInfo()["info"])
		}
		boxes[id] = b
	}
}

// verbose is what containerd and CRI-O put into the field "info" of the answer
// when it is to be verbose. It is no part of the interface: any of it may be absent.
type verbose struct {
	Pid         int `json:"pid"`
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// netns is that of the bind mount, else that of the sandbox's process.
func (c *CRI) netns(info string) event.NetNS {
	var v verbose
	if json.Unmarshal([]byte(info), &v) != nil {
		return 0
	}
	for _, n := range v.RuntimeSpec.Linux.Namespaces {
		if n.Type == "network" && n.Path != "" {
			if ns := mounted(n.Path); ns != 0 {
				return ns
			}
		}
	}
	if v.Pid <= 0 {
		return 0
	}
	return c.proc.netns(v.Pid)
}

// mounted is the inode of a namespace at a path, 0 if there is none. Other places
// than those of runtimes are not looked at: they may be on a server that is gone.
func mounted(file string) event.NetNS {
	file = path.Clean(file)
	if !strings.HasPrefix(file, "/run/") && !strings.HasPrefix(file, "/var/run/") && !strings.HasPrefix(file, "/proc/") {
		return 0
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(file, &fs) != nil || int64(fs.Type) != unix.NSFS_MAGIC || unix.Stat(file, &st) != nil {
		return 0
	}
	return event.NetNS(st.Ino)
}
