// Package ctsight holds the go:generate lines of the BPF objects, nothing else.
package ctsight

//go:generate go tool bpf2go -go-package abi -output-dir internal/abi -target amd64 -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -Wall -Werror -mcpu=v3" -type ct_tuple -type ct_rec -type ct_ext -type ct_count -type ct_cpu -type ct_peek -type ct_sum -type ct_untold Conntrack bpf/conntrack.bpf.c
//go:generate go tool bpf2go -go-package abi -output-dir internal/abi -target amd64 -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -Wall -Werror -mcpu=v2 -DLEGACY" Legacy bpf/conntrack.bpf.c
//go:generate go tool bpf2go -go-package abi -output-dir internal/abi -target amd64 -cc clang-14 -strip llvm-strip-14 -cflags "-O2 -Wall -Werror -mcpu=v3" Nflink bpf/nflink.bpf.c
