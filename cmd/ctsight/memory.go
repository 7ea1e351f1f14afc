package main

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What watches a kernel has tables that grow with what it sees, stay, and of which
// little is ever garbage: memory is what it is measured by. The collector lets garbage
// grow with what lives. Here it may be so many bytes whatever lives, but within these
// percents of it, so that a process with little is not busy collecting, nor one with much.
const (
	garbage     = 6 << 20
	leastGCRate = 5
	mostGCRate  = 50
)

// saveMemory is for commands that run beside traffic, until the process ends. GOGC in
// the environment wins.
func saveMemory() {
	if _, env := os.LookupEnv("GOGC"); !env {
		debug.SetGCPercent(mostGCRate)
		afterGC(&cycle{})
	}
}

// cycle is garbage from its beginning: that it is collected says that a cycle is over.
type cycle struct{ _ *cycle }

// readGCRate is that of a report: its tables grow with the capture, and stay. With 10 million
// events it takes 233 MiB, with the usual 100 some 380, and 2 % less time.
const readGCRate = 10

// readMemory is for commands that read a capture into tables. GOGC wins.
func readMemory() {
	if _, env := os.LookupEnv("GOGC"); !env {
		debug.SetGCPercent(readGCRate)
	}
}

// afterGC sets how much garbage the next cycle waits for.
func afterGC(*cycle) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(gcPercent(live[0].Value.Uint64()))
	runtime.SetFinalizer(&cycle{}, afterGC)
}

func gcPercent(live uint64) int {
	return int(math.Round(min(mostGCRate, max(leastGCRate, 100*garbage/float64(max(1, live))))))
}
