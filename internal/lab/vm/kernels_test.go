package vm

import (
	"slices"
	"testing"
)

func TestKernels(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kernels() {
		if k.Name == "" || k.Suite == "" || k.Package == "" || seen[k.Name] {
			t.Errorf("bad or repeated row %+v", k)
		}
		seen[k.Name] = true
	}
}

func TestSelectKernels(t *testing.T) {
	for _, tt := range []struct {
		list string
		want []string
		err  bool
	}{
		{"all", []string{"5.10", "6.1", "6.12", "newest"}, false},
		{"6.12,5.10", []string{"5.10", "6.12"}, false},
		{"newest", []string{"newest"}, false},
		{"4.19", nil, true},
		{"", nil, true},
	} {
		t.Run(tt.list, func(t *testing.T) {
			ks, err := SelectKernels(tt.list)
			var got []string
			for _, k := range ks {
				got = append(got, k.Name)
			}
			if (err != nil) != tt.err || !slices.Equal(got, tt.want) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}
