package relief

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// ErrNoSystemd says that there is no systemd that would come when a change is over.
var ErrNoSystemd = errors.New("no systemd here")

// Timer has systemd run a command once after a time, and again each minute while it
// fails. It is of this boot only, as the change is.
func Timer(ctx context.Context, id string, after time.Duration, command ...string) error {
	if st, err := os.Stat("/run/systemd/system"); err != nil || !st.IsDir() { // sd_booted(3)
		return ErrNoSystemd
	}
	return timer(ctx, "systemd-run", id, after, command...)
}

func timer(ctx context.Context, program, id string, after time.Duration, command ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args := append([]string{"--quiet", fmt.Sprintf("--unit=ctsight-relief-%s-%d", id, time.Now().Unix()), "--description=take back a temporary change of conntrack",
		fmt.Sprintf("--on-active=%ds", int64(after/time.Second)), "--timer-property=AccuracySec=1s",
		"--property=Restart=on-failure", "--property=RestartSec=60", "--"}, command...)
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemd-run: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
