package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// ErrNoLandlock says that nothing was restricted.
var ErrNoLandlock = errors.New("this kernel has no Landlock (5.13 or later, CONFIG_SECURITY_LANDLOCK and landlock in lsm=): leave it off (sandbox.landlock: off)")

// ErrNoLinks says that nothing was restricted, or links between directories would be.
var ErrNoLinks = errors.New("this kernel's Landlock (ABI 1) takes links between directories from everybody, with which recordings are kept (flight.dir): Linux 5.19 or later, or leave it off (sandbox.landlock: off)")

// Options are what remains allowed beside reading what the system keeps for all.
type Options struct {
	Read  []string // files and directories; beneath those, everything
	Write []string // likewise, to write, make and remove, and to read
	Keep  []string // likewise, and directories in them, between which files are linked
	// Sockets are unix sockets to connect to. Everything in their directories is
	// allowed, since a daemon that starts again makes its socket anew.
	Sockets []string
	Listen  []uint16 // TCP ports
	Connect []uint16 // TCP ports; with any, that of DNS too
}

// readable is what ctsight and Go's library read. Paths that are absent do no harm.
var readable = []string{
	"/proc", "/sys",
	"/run", "/var/run", // namespaces, secrets, resolv.conf behind a link
	"/lib/modules", "/usr/lib/modules",
	"/etc", "/usr/share/zoneinfo",
	"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates", "/usr/share/pki",
}

const (
	readAccess  = landlock.AccessFSSet(ll.AccessFSReadFile | ll.AccessFSReadDir)
	writeAccess = readAccess | landlock.AccessFSSet(ll.AccessFSWriteFile|ll.AccessFSTruncate|ll.AccessFSMakeReg|
		ll.AccessFSMakeSock|ll.AccessFSRemoveFile)
	keepAccess = writeAccess | landlock.AccessFSSet(ll.AccessFSMakeDir|ll.AccessFSRemoveDir|ll.AccessFSRefer)
	dirOnly    = landlock.AccessFSSet(ll.AccessFSReadDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSRemoveFile)
)

// dns is asked over TCP when an answer is too long for UDP, which is not restricted.
const dns = 53

// Landlock leaves to this process the reading of system files and what o allows, as
// far as the kernel can: ports since 6.7 (ABI 4), sockets with a path since ABI 9.
// No program can be started any more. It returns one line for the log.
//
// The price: a process under Landlock may not look into one that is not, whatever
// its capabilities (hook_ptrace_access_check in security/landlock). So links such
// as /proc/PID/ns/net cannot be read or opened any more, and network namespaces
// that have a process but no file (in /run/netns or elsewhere) are neither found
// nor entered, and where descriptors of other processes lead is not seen.
// Descriptors that are open, and namespaces with a file, keep working.
//
// What it does not cover: MPTCP sockets, which net.Listen makes where it can
// (unless GODEBUG=multipathtcp=0), and UDP. Scopes for signals and abstract sockets are
// not asked for: before ABI 8 every thread is in a domain of its own, and Go's
// runtime signals its threads.
func Landlock(o Options) (string, error) {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return "", ErrNoLandlock
	}
	if len(o.Keep) > 0 && abi < referABI {
		return "", ErrNoLinks
	}
	rules, err := o.rules()
	if err != nil {
		return "", err
	}
	net := landlock.AccessNetSet(ll.AccessNetBindTCP | ll.AccessNetConnectTCP)
	cfg, err := landlock.NewConfig(landlock.V9.HandledAccessFS, net)
	if err != nil {
		return "", fmt.Errorf("landlock: %w", err)
	}
	if err := cfg.BestEffort().Restrict(rules...); err != nil {
		return "", fmt.Errorf("landlock: %w", err)
	}
	return o.describe(abi), nil
}

// referABI is the first ABI of Landlock that lets files be linked from one directory to
// another (5.19).
const referABI = 2

// LeavesLinks says whether this kernel has a Landlock that can leave them (Options.Keep).
func LeavesLinks() bool {
	abi, err := ll.LandlockGetABIVersion()
	return err == nil && abi >= referABI
}

// portsABI is the first ABI of Landlock that knows ports (6.7).
const portsABI = 4

// RestrictsPorts says whether Landlock, once it is applied, restricts ports on this kernel.
func RestrictsPorts() bool {
	abi, err := ll.LandlockGetABIVersion()
	return err == nil && abi >= portsABI
}

func (o Options) rules() ([]landlock.Rule, error) {
	var rules []landlock.Rule
	for _, p := range append(slices.Clone(readable), o.Read...) {
		rules = append(rules, beneath(p, readAccess))
	}
	for _, p := range o.Write {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("landlock: %w: make it before", err)
		}
		rules = append(rules, beneath(p, writeAccess))
	}
	for _, p := range o.Keep {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("landlock: %w: make it before", err)
		}
		rules = append(rules, landlock.PathAccess(keepAccess, p))
	}
	for _, p := range o.Sockets {
		rules = append(rules, beneath(filepath.Dir(p), ll.AccessFSResolveUnix))
	}
	for _, p := range o.Listen {
		rules = append(rules, landlock.BindTCP(p))
	}
	for _, p := range o.connect() {
		rules = append(rules, landlock.ConnectTCP(p))
	}
	return rules, nil
}

// beneath is a rule for a directory and all in it, or for a file, to which the
// kernel takes no rights of directories.
func beneath(path string, access landlock.AccessFSSet) landlock.Rule {
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		access &^= dirOnly
	}
	return landlock.PathAccess(access, path).IgnoreIfMissing()
}

func (o Options) connect() []uint16 {
	if len(o.Connect) == 0 || slices.Contains(o.Connect, dns) {
		return o.Connect
	}
	return append(slices.Clone(o.Connect), dns)
}

func (o Options) describe(abi int) string {
	s := fmt.Sprintf("landlock ABI %d: reads system files", abi)
	if len(o.Read) > 0 {
		s += " and " + strings.Join(o.Read, ", ")
	}
	s += "; writes " + list(slices.Concat(o.Write, o.Keep))
	if abi < portsABI {
		return s + "; ports as before (needs ABI 4)"
	}
	return s + "; listens on TCP " + ports(o.Listen) + "; connects to TCP " + ports(o.connect())
}

func ports(p []uint16) string {
	if len(p) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(p), "[]")
}
