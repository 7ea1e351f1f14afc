package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

func main() {
	ks, _ := vm.SelectKernels(os.Args[1])
	img, err := vm.Fetch(context.Background(), ks[0], os.Stderr)
	if err != nil {
		panic(err)
	}
	p, err := vm.BuildInitramfs(context.Background(), img, vm.Spec{
		Files:   []vm.File{{Host: "/tmp/benchguest", Guest: "/bin/benchguest"}},
		Env:     []string{"GODEBUG=asyncpreemptoff=1"},
		Command: append([]string{"/bin/benchguest"}, os.Args[2:]...),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(img.Dir+"/vmlinuz", p)
}
