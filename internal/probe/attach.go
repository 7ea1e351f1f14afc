package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attached is one hook in place, by whichever means.
type attached struct {
	links   []link.Link // in the order of attaching: exits first
	progs   []*ebpf.Program
	names   []string
	backend string
	module  string // where the function lives, "" for the kernel itself
	load    uint64 // which load of the module this is
	closed  bool
}

func (a *attached) close() error {
	if a == nil || a.closed {
		return nil
	}
	a.closed = true
	var errs []error
	for i := len(a.links) - 1; i >= 0; i-- { // entries before exits
		errs = append(errs, ignoreClosed(a.links[i].Close()))
	}
	for _, p := range a.progs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	return err
}

// attach puts a hook in place by the first of the wanted means that works. The
// error joins what the kernel answered to those that did not; it may come with
// a hook in place by other means.
func (p *Probe) attach(h *hook) (*attached, error) {
	var errs []error
	if p.tryFentry && (h.entry != "" || h.exit != "") {
		a, err := p.attachFentry(h)
		if err == nil {
			return a, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", Fentry, err))
	}
	if p.tryKprobe && (h.kentry != "" || h.kexit != "") {
		a, err := p.attachKprobe(h)
		if err == nil {
			return a, errors.Join(errs...)
		}
		errs = append(errs, fmt.Errorf("%s: %w", Kprobe, err))
	}
	if len(errs) == 0 {
		return nil, errNotThisBackend
	}
	return nil, errors.Join(errs...)
}

var (
	errNotThisBackend = errors.New("not offered by this backend")
	errVerifier       = errors.New("the verifier refused the program; please report it with CTSIGHT_VERIFIER_LOG=1")
	errNoKprobes      = errors.New("this kernel has no kprobes (CONFIG_KPROBE_EVENTS, CONFIG_PERF_EVENTS)")
)

func (p *Probe) attachFentry(h *hook) (*attached, error) {
	a := &attached{backend: Fentry}
	for _, name := range []string{h.exit, h.entry} {
		if name == "" {
			continue
		}
		prog, err := p.obj.program(name)
		if err != nil {
			return nil, errors.Join(short(err), a.close())
		}
		a.progs = append(a.progs, prog)
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", name, err), a.close())
		}
		a.links, a.names = append(a.links, l), append(a.names, name)
	}
	return a, nil
}

func (p *Probe) attachKprobe(h *hook) (*attached, error) {
	a := &attached{backend: Kprobe}
	for _, name := range []string{h.kexit, h.kentry} {
		if name == "" {
			continue
		}
		prog, err := p.obj.program(name)
		if err != nil {
			return nil, errors.Join(short(err), a.close())
		}
		a.progs = append(a.progs, prog)
		l, err := attachOne(prog, h.symbol, strings.HasPrefix(name, "r_"))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", name, err), a.close())
		}
		a.links, a.names = append(a.links, l), append(a.names, name)
	}
	return a, nil
}

// kprobePMU exists where the kernel has kprobes that belong to a descriptor.
const kprobePMU = "/sys/bus/event_source/devices/kprobe/type"

// attachOne refuses kernels without that PMU: a kprobe made through tracefs
// would stay behind when this process is killed.
func attachOne(prog *ebpf.Program, symbol string, ret bool) (link.Link, error) {
	if prog.Type() == ebpf.TracePoint {
		return link.Tracepoint("skb", symbol, prog, nil)
	}
	if _, err := os.Stat(kprobePMU); err != nil {
		return nil, errNoKprobes
	}
	if ret {
		return link.Kretprobe(symbol, prog, nil)
	}
	return link.Kprobe(symbol, prog, nil)
}

// short cuts a verifier's log to its last lines, and what the library guesses
// about a plain refusal to the refusal itself.
func short(err error) error {
	var ve *ebpf.VerifierError
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("load: %w", unix.EPERM)
	}
	if errors.As(err, &ve) {
		if os.Getenv("CTSIGHT_VERIFIER_LOG") != "" {
			return fmt.Errorf("%s: %w", fmt.Sprintf("%+v", ve), errVerifier)
		}
		return fmt.Errorf("%s: %w", fmt.Sprintf("%-2v", ve), errVerifier)
	}
	return err
}
