package relief

import (
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/triage"
)

// What triage proposes for sysctls, whatever the table is full of, is what relief takes;
// what takes it back names the same, in the same namespace.
func TestTriageProposes(t *testing.T) {
	long := map[string]int{}
	for short, kind := range known {
		if kind == timeout {
			long[short] = 500_000
		}
	}
	proposed := map[string]bool{}
	for _, enter := range []string{"", triage.EnterName("blue")} {
		for _, held := range []struct {
			proto  uint8
			state  event.TCPState
			status event.Status
		}{{event.ProtoUDP, 0, 0}, {event.ProtoUDP, 0, event.Assured}, {event.ProtoICMP, 0, 0}, {event.ProtoICMPv6, 0, 0}, {event.ProtoTCP, event.TCPSynSent, 0}, {event.ProtoTCP, event.TCPSynRecv, 0},
			{event.ProtoTCP, event.TCPCloseWait, 0}, {event.ProtoTCP, event.TCPFinWait, 0}, {event.ProtoTCP, event.TCPTimeWait, 0}, {event.ProtoTCP, event.TCPEstablished, event.Assured}} {
			d := &triage.Doc{Focus: agg.TableState{NetNS: 4026532000, Entries: 990, Max: 1000, Level: agg.LevelCritical}, Enter: enter, Held: &agg.Holdings{}, Timeouts: long,
				Memory: triage.Memory{Object: 256, Buckets: 64}}
			for range 990 {
				d.Held.Add(&event.Tuple{Proto: held.proto}, held.status, held.state, time.Second)
			}
			d.Judge()
			for _, a := range d.Actions {
				set, ok := strings.CutPrefix(a.Command, "ctsight relief set ")
				if !ok {
					continue
				}
				what, flags, _ := strings.Cut(set, " ")
				ask, err := ParseAsk(what)
				if err != nil {
					t.Fatalf("%s: %v", a.Command, err)
				}
				proposed[ask.Sysctl] = true
				where := ""
				if enter != "" && !global(ask.Sysctl) {
					where = " --netns 4026532000"
				}
				if want := "ctsight relief revert " + ask.Sysctl + where; a.Undo != want {
					t.Errorf("%s is taken back by %s, want %s", a.Command, a.Undo, want)
				}
				if want := "--for 2h --reason triage --yes" + where; flags != want {
					t.Errorf("%s, want %s", a.Command, want)
				}
			}
		}
	}
	if len(proposed) != 11 { // ten timeouts and the limit
		t.Errorf("%v", proposed)
	}
}
