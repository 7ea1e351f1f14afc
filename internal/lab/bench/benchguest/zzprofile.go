package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/netlab"
)

func (b *bench) profile(kindName string) error {
	ctl, err := os.OpenFile("/dev/ttyS2", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	raw, _ := unix.IoctlGetTermios(int(ctl.Fd()), unix.TCGETS)
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Oflag = 0
	unix.IoctlSetTermios(int(ctl.Fd()), unix.TCSETS, raw)
	buf := make([]byte, 1)
	step := func(what string) {
		unix.Write(int(ctl.Fd()), []byte(what+"\n"))
		unix.Read(int(ctl.Fd()), buf)
	}
	var r *road
	for _, k := range kinds {
		if k.name == kindName {
			if r, err = k.open(b.lab); err != nil {
				return err
			}
		}
	}
	in, err := b.taps[0].open(r)
	if err != nil {
		return err
	}
	m, err := b.round(r, in)
	if err != nil {
		return err
	}
	fmt.Println(m.InsertMedian, median(m.Destroy))
	ks, _ := os.ReadFile("/proc/kallsyms")
	os.Stdout.Write(ks)
	if err := r.send(0, b.cost[:100]); err != nil {
		return err
	}
	step("on insert")
	if err := r.send(100, b.cost[:3]); err != nil {
		return err
	}
	step("off insert")
	step("on flush")
	r.flushSend()
	step("off flush")
	_ = netlab.Options{}
	return nil
}
