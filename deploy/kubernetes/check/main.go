// Command check decodes manifests from standard input into the types of Kubernetes,
// strictly: a field that the API does not know is an error.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

func main() {
	n, err := check(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(n, "objects")
}

// check returns how many objects there are. Those of other APIs (monitors, rules) are
// counted and not looked at.
func check(r io.Reader) (n int, err error) {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(r))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		var t meta.TypeMeta
		if err := yaml.Unmarshal(doc, &t); err != nil {
			return n, err
		}
		if t.Kind == "" {
			continue // only comments
		}
		n++
		if err := decode(doc, t); err != nil {
			return n, fmt.Errorf("%s %s: %w", t.APIVersion, t.Kind, err)
		}
	}
}

func decode(doc []byte, t meta.TypeMeta) error {
	into := map[string]any{
		"v1 Namespace": &core.Namespace{}, "v1 ServiceAccount": &core.ServiceAccount{}, "v1 ConfigMap": &core.ConfigMap{},
		"v1 Service": &core.Service{}, "apps/v1 DaemonSet": &apps.DaemonSet{},
		"monitoring.coreos.com/v1 PodMonitor": nil, "monitoring.coreos.com/v1 ServiceMonitor": nil,
		"monitoring.coreos.com/v1 PrometheusRule": nil,
	}
	obj, known := into[t.APIVersion+" "+t.Kind]
	switch {
	case !known:
		return errors.New("no object that is expected here")
	case obj == nil:
		return nil
	}
	// Not yaml.UnmarshalStrict, to which hostPid is hostPID.
	data, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	unknown, err := json.UnmarshalStrict(data, obj)
	return errors.Join(append(unknown, err)...)
}
