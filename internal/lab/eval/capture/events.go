package capture

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

// Scan is a port scan of the Westermo log: what was run, from when to when.
type Scan struct {
	From, To event.Ktime // as the capture counts
	What     string
}

// zone: the log's clock is one hour ahead of the capture's, as the same netcat packets
// show in both.
const zone = time.Hour

var logged = regexp.MustCompile(`^\[(\d+\.\d+) .*\[BAD-PORTSCAN(\d)-(START|END)\](.*)$`)

// Westermo returns the port scans of the log that belongs to a capture.
func Westermo(c *Capture) (out []Scan, err error) {
	dir, err := ctreplay.Find()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, "westermo", "events.txt"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		w := logged.FindStringSubmatch(s.Text())
		if w == nil {
			continue
		}
		at, err := strconv.ParseFloat(w[1], 64)
		if err != nil {
			return nil, err
		}
		k := event.Ktime(time.UnixMilli(int64(at * 1000)).Add(-zone).Sub(c.Start))
		if w[3] == "START" {
			out = append(out, Scan{From: k, What: strings.TrimSpace(w[4])})
		} else if len(out) > 0 {
			out[len(out)-1].To = k
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no port scans in the log")
	}
	return out, nil
}
