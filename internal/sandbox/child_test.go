package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
)

// What a process gives up is gone for good, so each case runs in a child: this
// test binary again, which runs one of children and writes what it returns as JSON.
const envChild = "CTSIGHT_SANDBOX_CHILD"

var children = map[string]func(arg string) (any, error){
	"drop":     childDrop,
	"landlock": childLandlock,
	"without":  childWithout,
	"sleep":    childSleep,
}

// The first thread stays with the main goroutine: a crew that enters namespaces on it
// would change what /proc/self/ns/net is.
func init() {
	if os.Getenv(envChild) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	name, arg, _ := strings.Cut(os.Getenv(envChild), " ")
	f, ok := children[name]
	if !ok {
		os.Exit(m.Run())
	}
	out, err := f(arg)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// command is a child that has not begun.
func command(child string, attr *syscall.SysProcAttr) *exec.Cmd {
	// Through /proc, since another user may not search the directory of the binary.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envChild+"="+child)
	cmd.SysProcAttr = attr
	return cmd
}

// run runs a child and decodes its answer.
func run(t *testing.T, child string, attr *syscall.SysProcAttr, out any) {
	t.Helper()
	lab.NeedRoot(t)
	cmd := command(child, attr)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s", child, err, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		t.Fatalf("%s: %v: %s", child, err, stdout.String())
	}
}

// childSleep says that it runs, and lives as long as its standard input.
func childSleep(string) (any, error) {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return nil, err
}

// sleeper starts a process of its own kind and returns its number.
func sleeper(attr *syscall.SysProcAttr) (pid int, end func(), err error) {
	cmd := command("sleep", attr)
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return 0, nil, err
	}
	return cmd.Process.Pid, func() { in.Close(); cmd.Wait() }, nil
}

// crew is threads of this process that wait for work.
type crew []chan func()

func newCrew(n int) crew {
	c := make(crew, n)
	for i := range c {
		c[i] = make(chan func())
		go func() {
			runtime.LockOSThread()
			for f := range c[i] {
				f()
			}
		}()
	}
	return c
}

// each runs f on every thread of the crew and joins the errors' texts.
func (c crew) each(f func() error) []string {
	out := make([]string, len(c))
	var wg sync.WaitGroup
	for i, work := range c {
		wg.Add(1)
		work <- func() {
			defer wg.Done()
			if err := f(); err != nil {
				out[i] = err.Error()
			}
		}
	}
	wg.Wait()
	return out
}

// statuses are the lines of all threads that tell of privileges, thread by thread.
func statuses() ([]map[string]string, error) {
	files, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return nil, err
	}
	var out []map[string]string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		m := map[string]string{}
		for line := range strings.Lines(string(data)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
			if strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" {
				m[k] = strings.TrimSpace(v)
			}
		}
		out = append(out, m)
	}
	return out, nil
}
