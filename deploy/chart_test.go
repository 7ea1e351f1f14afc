package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/ctsight/ctsight/internal/config"
)

const (
	helmVersion = "helm.sh/helm/v3/cmd/helm@v3.22.0"
	chart       = "helm/ctsight"
	kubernetes  = "1.33"
)

// helm runs it, built from its module.
func helm(args ...string) (string, error) {
	cmd := exec.Command("go", append([]string{"run", helmVersion}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("helm: %w\n%s%s", err, out, errs.String())
	}
	return string(out), err
}

func template(t *testing.T, args ...string) string {
	t.Helper()
	out, err := helm(append([]string{"template", "ctsight", chart, "-n", "ctsight"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// object is a manifest.
type object map[string]any

// at follows keys, and numbers of lists.
func (o object) at(keys ...any) any {
	var v any = map[string]any(o)
	for _, k := range keys {
		switch k := k.(type) {
		case string:
			v = v.(map[string]any)[k]
		case int:
			v = v.([]any)[k]
		}
	}
	return v
}

// objects are those of a stream by kind and name, without what only Helm writes.
func objects(t *testing.T, text string) map[string]object {
	t.Helper()
	out := map[string]object{}
	for dec := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any
		err := dec.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if o == nil {
			continue
		}
		if l, ok := object(o).at("metadata", "labels").(map[string]any); ok {
			for _, k := range []string{"app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} {
				delete(l, k)
			}
		}
		out[fmt.Sprint(o["kind"], " ", object(o).at("metadata", "name"))] = o
	}
}

// strict decodes manifests into the types of Kubernetes.
func strict(t *testing.T, text string) {
	t.Helper()
	cmd := exec.Command("go", "run", ".")
	cmd.Dir = "kubernetes/check"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestChart(t *testing.T) {
	if out, err := helm("lint", "--strict", "--kube-version", kubernetes, chart); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, set := range []string{"prot=1", "port=9782", "config.web.listen={127.0.0.1:9782}", "config.wbe.listen={:9781}", "scheme=https"} {
		if out, err := helm("template", "x", chart, "--kube-version", kubernetes, "--set", set); err == nil {
			t.Errorf("%s is taken:\n%.300s", set, out)
		}
	}
	if _, err := helm("template", "x", chart, "--kube-version", kubernetes, "--set", "port=9782,config.web.listen={127.0.0.1:9782}"); err != nil {
		t.Error(err)
	}
}

// The plain manifest is what the chart renders by default.
func TestPlainManifest(t *testing.T) {
	text := read(t, "kubernetes/daemonset.yaml")
	strict(t, text)
	plain, rendered := objects(t, text), objects(t, template(t, "--kube-version", kubernetes))
	delete(plain, "Namespace ctsight") // not the chart's to make
	annotations := rendered["DaemonSet ctsight"].at("spec", "template", "metadata", "annotations").(map[string]any)
	if len(annotations) != 1 || annotations["checksum/config"] == "" {
		t.Errorf("annotations: %v", annotations)
	}
	delete(rendered["DaemonSet ctsight"].at("spec", "template", "metadata").(map[string]any), "annotations")
	for _, all := range []map[string]object{plain, rendered} {
		data := all["ConfigMap ctsight"].at("data").(map[string]any)
		c, err := config.Parse("ctsight.yml", []byte(data["ctsight.yml"].(string)))
		if err != nil {
			t.Error(err)
		}
		data["ctsight.yml"] = c
	}
	if d := cmp.Diff(plain, rendered); d != "" {
		t.Error("- plain, + chart: ", d)
	}
	add := plain["DaemonSet ctsight"].at("spec", "template", "spec", "containers", 0, "securityContext", "capabilities", "add").([]any)
	var got []string
	for _, c := range add {
		got = append(got, c.(string))
	}
	slices.Sort(got)
	if d := cmp.Diff(needs(), got); d != "" {
		t.Error("capabilities: ", d)
	}
	monitor := template(t, "--kube-version", kubernetes, "--set", "podMonitor.enabled=true")
	if d := cmp.Diff(objects(t, read(t, "kubernetes/podmonitor.yaml"))["PodMonitor ctsight"], objects(t, monitor)["PodMonitor ctsight"]); d != "" {
		t.Error("- plain, + chart: ", d)
	}
}

// Everything that can be switched on, under a name that YAML would take for true, in
// a Kubernetes that says AppArmor by annotation.
func TestChartOptions(t *testing.T) {
	text, err := helm("template", "y", chart, "-n", "y", "--kube-version", "1.28", "--set", strings.Join([]string{
		"criSocket=/run/containerd/containerd.sock", "flight.hostPath=/var/lib/ctsight/flight", "config.flight.size=2G", "oldKernels=true", "podMonitor.enabled=true", "serviceMonitor.enabled=true",
		"prometheusRule.enabled=true", "prometheusRule.labels.release=prom", "scheme=HTTPS", "config.log.level=debug", "hostNetwork=false",
		"seLinuxOptions.type=spc_t", "serviceAccount.name=other", "fullnameOverride=y"}, ","))
	if err != nil {
		t.Fatal(err)
	}
	strict(t, text)
	all := objects(t, text)
	pod := object(all["DaemonSet y"].at("spec", "template", "spec").(map[string]any))
	for _, want := range []struct{ what, got, want any }{
		{"namespace", all["DaemonSet y"].at("metadata", "namespace"), "y"},
		{"annotation", all["DaemonSet y"].at("spec", "template", "metadata", "annotations", "container.apparmor.security.beta.kubernetes.io/ctsight"), "unconfined"},
		{"field", pod.at("containers", 0, "securityContext", "appArmorProfile"), nil},
		{"last capability", pod.at("containers", 0, "securityContext", "capabilities", "add", 7), "SYS_RESOURCE"},
		{"scheme", pod.at("containers", 0, "livenessProbe", "httpGet", "scheme"), "HTTPS"},
		{"SELinux", pod.at("containers", 0, "securityContext", "seLinuxOptions", "type"), "spc_t"},
		{"account", pod.at("serviceAccountName"), "other"},
		{"network", pod.at("hostNetwork"), nil},
		{"port", pod.at("containers", 0, "ports", 0, "hostPort"), nil},
		{"tracefs", pod.at("containers", 0, "volumeMounts", 2, "mountPath"), "/sys/kernel/tracing"},
		{"socket", pod.at("containers", 0, "volumeMounts", 3, "mountPath"), "/run/containerd"},
		{"its mount", pod.at("containers", 0, "volumeMounts", 4, "mountPath"), "/var/lib/ctsight/flight"},
		{"which can be written", pod.at("containers", 0, "volumeMounts", 4, "readOnly"), nil},
		{"its volume", pod.at("volumes", 4, "hostPath", "path"), "/var/lib/ctsight/flight"},
		{"label of rules", all["PrometheusRule y-alerts"].at("metadata", "labels", "release"), "prom"},
	} {
		if want.got != want.want {
			t.Errorf("%s: %v, want %v", want.what, want.got, want.want)
		}
	}
	c, err := config.Parse("ctsight.yml", []byte(all["ConfigMap y"].at("data", "ctsight.yml").(string)))
	if err != nil || c.CRI.Socket != "/run/containerd/containerd.sock" || c.Log.Level != "debug" || c.Flight.Dir != "/var/lib/ctsight/flight" || c.Flight.Size != 2<<30 {
		t.Errorf("%v: %+v", err, c)
	}
	for _, name := range []string{"alerts", "recording"} {
		want := objects(t, "kind: x\nmetadata: {name: x}\n"+read(t, "prometheus/"+name+".yml"))["x x"].at("groups")
		if d := cmp.Diff(want, all["PrometheusRule y-"+name].at("spec", "groups")); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// The chart has links to the rules; when it is packed they become files.
func TestChartPacked(t *testing.T) {
	dir := t.TempDir()
	if _, err := helm("package", "-d", dir, chart); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alerts.yml", "recording.yml"} {
		got := say(t, "tar", "-xOzf", dir+"/ctsight-0.1.0.tgz", "ctsight/files/"+name)
		if got != read(t, "prometheus/"+name) {
			t.Errorf("%s: %.100s", name, got)
		}
	}
}
