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
	symbol  string
	first   copies // in the order of attaching: exits before entries
	second  copies // the same programs once more, where a hook has twice
	names   []string
	skip    skipped
	backend string
	module  string // where the function lives, "" for the kernel itself
	load    uint64 // which load of the module this is
	closed  bool
}

// copies are programs and the links that hold them.
type copies struct {
	links []link.Link
	progs []*ebpf.Program
}

func (c *copies) close() (errs []error) {
	for i := len(c.links) - 1; i >= 0; i-- { // entries before exits
		errs = append(errs, ignoreClosed(c.links[i].Close()))
	}
	for _, p := range c.progs {
		errs = append(errs, p.Close())
	}
	return errs
}

func (a *attached) close() error {
	if a == nil || a.closed {
		return nil
	}
	a.closed = true
	return errors.Join(append(a.second.close(), a.first.close()...)...) // the first ones do without the second
}

// misses counts runs that the kernel skipped because the program was already
// running on that CPU (recursion_misses, 5.12), by what they cost.
func (a *attached) misses() (n [losesNothing + 1]uint64) {
	what := a.skip
	if len(a.second.progs) > 0 {
		what = losesNothing
	}
	n[what] = a.first.misses() + a.second.misses()
	return n
}

func (c *copies) misses() (n uint64) {
	for _, prog := range c.progs {
		if st, err := prog.Stats(); err == nil {
			n += st.RecursionMisses
		}
	}
	return n
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
	if p.tryFentry && h.inner != "" && callsInner() {
		inner := hook{symbol: h.inner, entry: h.innerEntry}
		if a, err := p.attachFentry(&inner); err == nil {
			return a, nil
		} // else the hook itself will do
	}
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

// callsInner says whether every call of an inner function of the hook table is
// one that can be hooked. GCC does not inline a function of that size that has
// two callers; clang may do so at one of them.
func callsInner() bool {
	v, err := os.ReadFile("/proc/version")
	return err == nil && strings.Contains(string(v), "gcc")
}

func (p *Probe) attachFentry(h *hook) (*attached, error) {
	a := &attached{symbol: h.symbol, skip: h.skip, backend: Fentry}
	for _, name := range []string{h.exit, h.entry} {
		if name == "" {
			continue
		}
		// The kernel runs the tracing program that was attached last first,
		// and what is at a tracepoint in the order of attaching.
		order := []bool{true, false}
		if ps := p.obj.spec.Programs[name]; ps != nil && ps.AttachType == ebpf.AttachTraceRawTp {
			order = []bool{false, true}
		}
		for _, second := range order {
			if second && !p.obj.twice(h) {
				continue
			}
			if err := p.attachTracing(a, name, second); err != nil {
				return nil, errors.Join(err, a.close())
			}
		}
		a.names = append(a.names, name)
	}
	return a, nil
}

func (p *Probe) attachTracing(a *attached, name string, second bool) error {
	c := &a.first
	if second {
		c = &a.second
	}
	prog, err := p.obj.program(name, second)
	if err != nil {
		return short(err)
	}
	c.progs = append(c.progs, prog)
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("attach %s: %w", name, err)
	}
	c.links = append(c.links, l)
	return nil
}

func (p *Probe) attachKprobe(h *hook) (*attached, error) {
	a := &attached{symbol: h.symbol, skip: h.skip, backend: Kprobe}
	for _, name := range []string{h.kexit, h.kentry} {
		if name == "" {
			continue
		}
		prog, err := p.obj.program(name, false)
		if err != nil {
			return nil, errors.Join(short(err), a.close())
		}
		a.first.progs = append(a.first.progs, prog)
		l, err := attachOne(prog, h.symbol, strings.HasPrefix(name, "r_"))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", name, err), a.close())
		}
		a.first.links, a.names = append(a.first.links, l), append(a.names, name)
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
// about a plain refusal to the refusal itself. That lockdown has taken away the
// helper that reads the kernel's memory is for the verifier one more mistake.
func short(err error) error {
	var ve *ebpf.VerifierError
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("load: %w", unix.EPERM)
	}
	if errors.As(err, &ve) {
		if confidential() && strings.Contains(strings.Join(ve.Log, "\n"), "bpf_probe_read") {
			return errLockedDown
		}
		if os.Getenv("CTSIGHT_VERIFIER_LOG") != "" {
			return fmt.Errorf("%s: %w", fmt.Sprintf("%+v", ve), errVerifier)
		}
		return fmt.Errorf("%s: %w", fmt.Sprintf("%-2v", ve), errVerifier)
	}
	return err
}
