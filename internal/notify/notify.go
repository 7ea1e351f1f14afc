// Package notify tells systemd how `ctsight serve` is (sd_notify): ready, reloading,
// stopping, a line of status, and that it still moves. Nothing is sent, and that is
// no error, where NOTIFY_SOCKET is not set.
package notify

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready says that the start or a reload is through. status is what `systemctl
// status` shows.
func Ready(status string) error { return send(daemon.SdNotifyReady, status) }

// Reloading says that a reload begins; Ready has to follow, be it refused or not.
// Services of Type=notify-reload are given the time of it.
func Reloading() error {
	return send(daemon.SdNotifyReloading+"\n"+strings.TrimSpace(daemon.SdNotifyMonotonicUsec()), "")
}

// Stopping says that the end begins.
func Stopping(status string) error { return send(daemon.SdNotifyStopping, status) }

// Status shows a line in `systemctl status`.
func Status(status string) error { return send("", status) }

// Extend asks for at least d more, from now on, before a start or a stop counts as
// failed.
func Extend(d time.Duration) error {
	return send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()), "")
}

// ExtendWhile extends by d, time and again, until the context ends: while programs
// are loaded, which takes as long as the verifier likes. The first error ends it.
func ExtendWhile(ctx context.Context, d time.Duration) error {
	return every(ctx, d/2, func() error { return Extend(d) })
}

// Watchdog tells systemd twice per interval that the process is well, as long as
// healthy says so, until the context ends; without a watchdog (WatchdogSec) it
// returns at once. When healthy says no, or does not return, systemd ends the
// process after the interval and starts it anew. A message that could not be sent
// is told, and tried again at the next time.
func Watchdog(ctx context.Context, healthy func() bool, told func(error)) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog: %w: unset WATCHDOG_USEC, or let systemd set it (WatchdogSec)", err)
	}
	if interval <= 0 {
		return nil
	}
	return every(ctx, interval/2, func() error {
		if !healthy() {
			return nil
		}
		if err := send(daemon.SdNotifyWatchdog, ""); err != nil {
			told(err)
		}
		return nil
	})
}

// every calls f, now and each d, until the context ends or f fails.
func every(ctx context.Context, d time.Duration, f func() error) error {
	t := time.NewTicker(max(d, time.Millisecond))
	defer t.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// send sends what is not empty as one message; a status is one line of it.
func send(state, status string) error {
	if status != "" {
		status = "STATUS=" + strings.Join(strings.Fields(status), " ")
	}
	message := strings.TrimSpace(state + "\n" + status)
	if message == "" {
		return nil
	}
	if _, err := daemon.SdNotify(false, message); err != nil {
		return fmt.Errorf("notify systemd: %w: let it accept messages of this process (NotifyAccess)", err)
	}
	return nil
}
