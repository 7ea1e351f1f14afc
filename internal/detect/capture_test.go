package detect

import (
	"bufio"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

// play plans the lines of a capture.
func (w *world) play(lines []ctreplay.Line) (end time.Duration) {
	for i := range lines {
		l := &lines[i]
		end = time.Duration(l.Event.Time)
		w.at(end, func() {
			s := w.live[l.Event.Ptr]
			switch l.What {
			case 'N':
				w.live[l.Event.Ptr] = Seen{Known: true, Live: true, TCPState: event.TCPSynSent}
				w.d.Add(&l.Event)
			case 'R':
				s.Status, s.TCPState = s.Status|event.SeenReply, event.TCPSynRecv
				w.live[l.Event.Ptr] = s
			case 'A':
				s.Status, s.TCPState = s.Status|event.Assured, event.TCPEstablished
				w.live[l.Event.Ptr] = s
			case 'D':
				delete(w.live, l.Event.Ptr)
				w.d.Add(&l.Event)
			}
		})
	}
	return end
}

// truth returns the sources of a class in a public capture.
func truth(t *testing.T, capture, class string) (out map[netip.Addr]bool) {
	t.Helper()
	f, err := os.Open(filepath.Join(ctreplay.Dir(t), "truth.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out = map[netip.Addr]bool{}
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Split(s.Text(), "\t")
		if len(w) > 2 && w[0] == capture && strings.Contains(w[2], class) {
			out[addr(w[1])] = true
		}
	}
	return out
}

// In the public captures who is benign gets nothing but information, and who guesses
// passwords is called that and not a scanner.
func TestCapturesByOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("days of captures")
	}
	for capture, hammers := range map[string]bool{"gnutella-p2p": false, "rita-proxy": false, "rita-proxy-rolling": false, "strat011": false,
		"ssh-bruteforce": true, "zeek-sshguess": false, "westermo-right": true} {
		t.Run(capture, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.run(w.play(ctreplay.Read(t, capture)) + minute)
			benign, guess := truth(t, capture, "benign"), truth(t, capture, "bruteforce-not-scan")
			hammered := false
			for _, f := range w.told {
				hammered = hammered || f.Class == "connection_hammering"
				if !f.Source.IsSingleIP() {
					continue
				}
				if src := f.Source.Addr(); benign[src] && f.Severity != agg.Info || guess[src] && f.Class == "scan" {
					t.Errorf("%+v", f)
				}
			}
			if hammers && !hammered {
				t.Error("no hammering")
			}
		})
	}
}
