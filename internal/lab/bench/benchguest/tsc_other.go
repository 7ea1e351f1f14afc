//go:build !amd64

package main

import "time"

// tsc counts nanoseconds where there is no RDTSC.
func tsc() uint64 { return uint64(time.Now().UnixNano()) }
