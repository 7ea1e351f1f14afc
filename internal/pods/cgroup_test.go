package pods

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Digits for ids. Paths are those that issues and tests of public projects show,
// named where they are from.
const (
	idA = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376"
	idB = "0f99ad5f45163ed14ab8eaf92ed34bb4a631d007f8755a7d79be614bcb0df0ef"
	uid = "ff49d0be-16b7-4a49-bb9e-8ec1f1f4e27f"
	und = "ff49d0be_16b7_4a49_bb9e_8ec1f1f4e27f"
)

func TestFromCgroup(t *testing.T) {
	pod := func(runtime string) Pod { return Pod{UID: uid, Container: idA, Runtime: runtime, Depth: 1} }
	ctr := func(runtime string) Pod { return Pod{Container: idA, Runtime: runtime, Depth: 1} }
	named := func(runtime, name string) Pod { return Pod{Container: name, Runtime: runtime, Depth: 1} }
	for _, tc := range []struct {
		name, data string
		want       Pod
		text       string
	}{
		// Kubernetes, systemd driver, one for each class.
		{"v2 containerd burstable", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n",
			pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"v2 containerd besteffort, k3s (cryptnono/cryptnono#47)", "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n",
			pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"v2 guaranteed, EKS", "0::/kubepods.slice/kubepods-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n", pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"crio (kinvolk/traceloop#33)", "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + und + ".slice/crio-" + idA + ".scope\n", pod("crio"), "pod:" + uid + "/34dc0b5e626f"},
		{"crio, inner cgroup", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + und + ".slice/crio-" + idA + ".scope/container\n", pod("crio"), "pod:" + uid + "/34dc0b5e626f"},
		{"crio monitor is not in the container (sustainable-computing-io/kepler#153)", "1:name=systemd:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + und + ".slice/crio-conmon-" + idA + ".scope\n",
			Pod{UID: uid, Depth: 1}, "pod:" + uid},
		{"dockershim (kinvolk/traceloop#34)", "11:memory:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + und + ".slice/docker-" + idA + ".scope\n", pod("docker"), "pod:" + uid + "/34dc0b5e626f"},
		{"systemd in the container", "0::/kubepods.slice/kubepods-pod" + und + ".slice/cri-containerd-" + idA + ".scope/system.slice/nginx.service\n", pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"static pod", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podb8a1b3ee5c2c6c4cbf7c5e3d1b3c9e21.slice/cri-containerd-" + idA + ".scope\n",
			Pod{UID: "b8a1b3ee5c2c6c4cbf7c5e3d1b3c9e21", Container: idA, Runtime: "containerd", Depth: 1}, "pod:b8a1b3ee5c2c6c4cbf7c5e3d1b3c9e21/34dc0b5e626f"},
		{"kubelet's parent in front (sustainable-computing-io/kepler#684)", "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n",
			pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"containerd without SystemdCgroup (elastic/apm-agent-nodejs#3550)", "1:name=systemd:/system.slice/containerd.service/kubepods-burstable-pod" + und + ".slice:cri-containerd:" + idA + "\n",
			pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		// Kubernetes, cgroupfs driver.
		{"v1 GKE besteffort (Qard/container-info)", "11:devices:/kubepods/besteffort/pod" + uid + "/" + idA + "\n10:perf_event:/kubepods/besteffort/pod" + uid + "/" + idA + "\n1:name=systemd:/kubepods/besteffort/pod" + uid + "/" + idA + "\n",
			pod(""), "pod:" + uid + "/34dc0b5e626f"},
		{"v1 guaranteed, k3s", "6:memory:/kubepods/pod" + uid + "/" + idA + "\n", pod(""), "pod:" + uid + "/34dc0b5e626f"},
		{"docker desktop (spiffe/spire#1547)", "6:memory:/kubepods/kubepods/besteffort/pod" + uid + "/" + idA + "\n", pod(""), "pod:" + uid + "/34dc0b5e626f"},
		{"hybrid: the unified line tells less", "12:pids:/kubepods/burstable/pod" + uid + "/" + idA + "\n1:name=systemd:/kubepods/burstable/pod" + uid + "/" + idA + "\n0::/system.slice/containerd.service\n",
			pod(""), "pod:" + uid + "/34dc0b5e626f"},
		{"hybrid: the unified line tells more", "5:net_cls:/\n1:name=systemd:/system.slice/containerd.service\n0::/kubepods/pod" + uid + "/" + idA + "\n", pod(""), "pod:" + uid + "/34dc0b5e626f"},
		// Nested.
		{"kind, v2 (containerd/nri#227)", "0::/system.slice/docker-" + idB + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n",
			Pod{UID: uid, Container: idA, Runtime: "containerd", In: "docker:0f99ad5f4516", Depth: 2}, "docker:0f99ad5f4516/pod:" + uid + "/34dc0b5e626f"},
		{"minikube, k3d, v1", "9:memory:/docker/" + idB + "/kubepods/burstable/pod" + uid + "/" + idA + "\n",
			Pod{UID: uid, Container: idA, In: "docker:0f99ad5f4516", Depth: 2}, "docker:0f99ad5f4516/pod:" + uid + "/34dc0b5e626f"},
		{"a node of kind itself", "0::/docker/" + idA + "/init.scope\n", ctr("docker"), "docker:34dc0b5e626f"},
		{"docker in a pod", "0::/kubepods/pod" + uid + "/" + idA + "/docker/" + idB + "\n",
			Pod{Container: idB, Runtime: "docker", In: "pod:" + uid + "/34dc0b5e626f", Depth: 2}, "pod:" + uid + "/34dc0b5e626f/docker:0f99ad5f4516"},
		// Read from inside of a cgroup namespace.
		{"other class", "0::/../../../kubepods-burstable.slice/kubepods-burstable-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n", pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"same class, k3s", "0::/../../kubepods-besteffort-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n", pod("containerd"), "pod:" + uid + "/34dc0b5e626f"},
		{"same class, cgroupfs", "0::/../../pod" + uid + "/" + idA + "\n", pod(""), "pod:" + uid + "/34dc0b5e626f"},
		{"same pod", "0::/../cri-containerd-" + idA + ".scope\n", ctr("containerd"), "containerd:34dc0b5e626f"},
		{"same pod, cgroupfs", "0::/../" + idA + "\n", ctr(""), "container:34dc0b5e626f"},
		// Without Kubernetes.
		{"docker, systemd (neuvector/neuvector)", "10:devices:/system.slice/docker-" + idA + ".scope\n", ctr("docker"), "docker:34dc0b5e626f"},
		{"docker, cgroupfs", "0::/docker/" + idA + "\n", ctr("docker"), "docker:34dc0b5e626f"},
		{"docker, old Debian (neuvector/neuvector)", "10:net_prio:/" + idA + "\n", ctr(""), "container:34dc0b5e626f"},
		{"docker without systemd", "0::/system.slice:docker:" + idA + "\n", ctr("docker"), "docker:34dc0b5e626f"},
		{"buildkit (cryptnono/cryptnono#47)", "0::/docker/buildkit/t4967jvf8rbufklrhkicskyes\n", named("buildkit", "t4967jvf8rbufklrhkicskyes"), "buildkit:t4967jvf8rbufklrhkicskyes"},
		{"ECS on Fargate", "4:memory:/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-1234567890\n",
			named("ecs", "0123456789abcdef0123456789abcdef-1234567890"), "ecs:0123456789abcdef0123456789abcdef-1234567890"},
		{"podman, root", "0::/machine.slice/libpod-" + idA + ".scope/container\n", ctr("podman"), "podman:34dc0b5e626f"},
		{"podman, rootless", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope/container\n", ctr("podman"), "podman:34dc0b5e626f"},
		{"podman, pod", "0::/machine.slice/machine-libpod_pod_" + idB + ".slice/libpod-" + idA + ".scope/container\n", ctr("podman"), "podman:34dc0b5e626f"},
		{"podman, split", "0::/system.slice/web.service/libpod-payload-" + idA + "\n", ctr("podman"), "podman:34dc0b5e626f"},
		{"podman, told twice", "0::/machine.slice/libpod-" + idA + ".scope/libpod-payload-" + idA + "\n", ctr("podman"), "podman:34dc0b5e626f"},
		{"nspawn", "0::/machine.slice/systemd-nspawn@deb\\x2d12.service/payload/init.scope\n", named("nspawn", "deb-12"), "nspawn:deb-12"},
		{"machined", "0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator\n", named("machine", "qemu-1-vm"), "machine:qemu-1-vm"},
		{"lxc 4", "0::/lxc.payload.web/system.slice/nginx.service\n", named("lxc", "web"), "lxc:web"},
		{"lxc 2", "3:memory:/lxc/web/init.scope\n", named("lxc", "web"), "lxc:web"},
		{"kubelet of a user", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/kubepods-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n",
			Pod{UID: uid, Container: idA, Runtime: "containerd", In: "user@1000", Depth: 2}, "user@1000/pod:" + uid + "/34dc0b5e626f"},
		// Services.
		{"service", "0::/system.slice/unbound.service\n", Pod{Unit: "unbound.service"}, "unbound.service"},
		{"instance", "0::/system.slice/system-openvpn.slice/openvpn@a\\x2db.service\n", Pod{Unit: "openvpn@a-b.service"}, "openvpn@a-b.service"},
		{"service of a user", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service\n", Pod{Unit: "sync.service"}, "sync.service"},
		{"gone", "0::/system.slice/unbound.service (deleted)\n", Pod{Unit: "unbound.service"}, "unbound.service"},
		// Nobody's.
		{"root", "0::/\n", Pod{}, ""},
		{"session", "0::/user.slice/user-0.slice/session-3.scope\n", Pod{}, ""},
		{"init", "0::/init.scope\n", Pod{}, ""},
		{"lxc monitor", "0::/lxc.monitor.web\n", Pod{}, ""},
		{"empty", "", Pod{}, ""},
		{"no colons", "kubepods/pod" + uid + "\n", Pod{}, ""},
		{"short id", "0::/docker/34dc0b5e\n", Pod{}, ""},
		{"no UID", "0::/kubepods/podman/x\n", Pod{}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := FromCgroup(tc.data)
			if got != tc.want || ok != (tc.want != Pod{}) || got.String() != tc.text {
				t.Errorf("got %+v %v, called %q\nwant %+v, called %q", got, ok, got.String(), tc.want, tc.text)
			}
		})
	}
}

// A container may make cgroups below its own and call them what it likes. It cannot
// get rid of what is above.
func TestFromCgroupForged(t *testing.T) {
	got, _ := FromCgroup("0::/kubepods/pod" + uid + "/" + idA + "/kubepods.slice/kubepods-pod00000000_0000_0000_0000_000000000000.slice/cri-containerd-" + idB + ".scope\n")
	if want := "pod:" + uid + "/34dc0b5e626f/pod:00000000-0000-0000-0000-000000000000/0f99ad5f4516"; got.String() != want || got.Depth != 2 {
		t.Errorf("called %q at depth %d, want %q at 2", got.String(), got.Depth, want)
	}
}

// What others chose is bounded and valid, however long and deep it is.
func TestFromCgroupHostile(t *testing.T) {
	for name, data := range map[string]string{
		"4 kB":          "0::/lxc.payload." + strings.Repeat("a", 4096) + "\n",
		"4 kB of bytes": "0::/lxc.payload." + strings.Repeat("\xff\xfe", 2048) + "\n",
		"cut character": "0::/lxc.payload." + strings.Repeat("a", maxName-3) + strings.Repeat("€", 100) + "\n",
		"escapes":       "0::/lxc.payload.\x1b[2J\x1b]0;x\x07\n",
		"unit":          "0::/system.slice/" + strings.Repeat(`\x1b`, 900) + ".service\n",
		"half escape":   "0::/system.slice/a\\x2.service\n",
		"deep":          "0:" + strings.Repeat(":/lxc/"+strings.Repeat("n", 200), 1000),
		"layers":        "0::" + strings.Repeat("/docker/"+idA+"/docker/"+idB, 30) + "\n",
		"lines":         strings.Repeat("0::/\n", 100000),
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := FromCgroup(data)
			checkBounds(t, p)
		})
	}
}

// There are never as many lines as would be worth reading on.
func TestFromCgroupLines(t *testing.T) {
	line := "0::/docker/" + idA + "\n"
	if _, ok := FromCgroup(strings.Repeat("0::/\n", maxLines-1) + line); !ok {
		t.Error("the last line is not read")
	}
	if p, ok := FromCgroup(strings.Repeat("0::/\n", maxLines) + line); ok {
		t.Errorf("%+v from too many lines", p)
	}
}

func checkBounds(t *testing.T, p Pod) {
	t.Helper()
	s := p.String()
	if len(s) > 700 || !utf8.ValidString(s) || p.Depth > maxLayers {
		t.Errorf("%d bytes, valid %v, depth %d: %q", len(s), utf8.ValidString(s), p.Depth, s)
	}
}

func FuzzFromCgroup(f *testing.F) {
	f.Add("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + und + ".slice/cri-containerd-" + idA + ".scope\n")
	f.Add("1:name=systemd:/system.slice/containerd.service/kubepods-burstable-pod" + und + ".slice:cri-containerd:" + idA + "\n0::/\n")
	f.Add("0::/../../lxc.payload.\xff/machine-a\\x2d.scope/x.service (deleted)\n")
	f.Fuzz(func(t *testing.T, data string) {
		p, ok := FromCgroup(data)
		checkBounds(t, p)
		if ok != (p.String() != "") {
			t.Errorf("found %v but called %q: %+v", ok, p.String(), p)
		}
		if _, is := isUID(p.UID); p.UID != "" && !is {
			t.Errorf("UID %q", p.UID)
		}
	})
}

// Bytes that are nearly digits are none.
func TestIsHex(t *testing.T) {
	for c := range 256 {
		want := strings.Contains("0123456789abcdefABCDEF", string(rune(c)))
		if isHex(string([]byte{byte(c)})) != want {
			t.Errorf("byte %#x: %v", c, !want)
		}
	}
}

func TestGenerated(t *testing.T) {
	for name, want := range map[string]bool{
		"cni-49ebd689-4938-e3c4-2446-baf3495bf7a5": true, "49ebd689-4938-e3c4-2446-baf3495bf7a5": true,
		"netns-49ebd689-4938-e3c4-2446-baf3495bf7a5": true, "cni-web": false, "web": false, "": false, "cilium-health": false,
	} {
		if Generated(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
