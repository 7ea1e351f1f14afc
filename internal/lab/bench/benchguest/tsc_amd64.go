package main

// tsc reads the time stamp counter. Under -icount shift=0 it counts executed
// instructions; the guest's clocks are derived from it and are less exact,
// because the kernel has to estimate its frequency.
func tsc() uint64
