package serve

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/relief"
	"github.com/ctsight/ctsight/internal/view"
)

// reliefs ends temporary changes of sysctls whose time is over, as far as this process
// may, and tells of them in any case.
type reliefs struct {
	*server
	book  *relief.Book
	shown atomic.Pointer[[]agg.Relief]
	said  string   // the last error, which is told once
	pin   *os.File // see written
}

const (
	reliefEvery  = 5 * time.Second
	reliefRecent = 24 * time.Hour // how long what was closed is shown
	reliefSeries = 20             // of changes, at most
)

func (s *server) newReliefs(c *config.Config) (*reliefs, error) {
	h, err := relief.ThisHost()
	if err != nil {
		return nil, err
	}
	return &reliefs{server: s, book: &relief.Book{Disk: relief.Dir(c.Relief.Dir), Host: h}}, nil
}

// run looks after them from the start until ctx ends.
func (r *reliefs) run(ctx context.Context) error {
	tick := time.NewTicker(reliefEvery)
	defer tick.Stop()
	for {
		r.look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *reliefs) look() {
	r.book.Kernel = relief.Proc{Sees: relief.SeesAll()} // less of them under Landlock
	closed, err := r.book.Expire()
	for _, c := range closed {
		level := r.log.Info
		if c.State != relief.Reverted {
			level = r.log.Warn
		}
		t := r.book.Tell(c)
		level("relief", "sysctl", c.Sysctl, "netns", t.NetNS, "id", c.ID, "state", view.ReliefState(&t), "what", view.Text(t.Notes[len(t.Notes)-1].Text), "reason", view.Text(c.Reason))
	}
	all, lerr := r.book.List()
	now := r.book.Host.Now()
	all = slices.DeleteFunc(all, func(c agg.Relief) bool { return !c.Open && now.Sub(c.Closed) > reliefRecent })
	r.shown.Store(&all)
	if err == nil { // else it has said of the journal what List would
		err = lerr
	}
	r.tell(err)
}

func (r *reliefs) tell(err error) {
	text := ""
	if err != nil {
		text = view.OneLine(err)
	}
	if text != "" && text != r.said {
		r.log.Warn("relief", "answer", text)
	}
	r.said = text
}

// now are those that are open, and those closed within a day.
func (r *reliefs) now() []agg.Relief {
	if p := r.shown.Load(); p != nil {
		return *p
	}
	return nil
}

// written are directories that Landlock has to leave for it: none where there is no
// journal yet, or where it is not ours to write. A rule of Landlock holds for an inode,
// and that of a directory of /proc/sys is made anew when nobody holds it.
func (r *reliefs) written(c *config.Config) []string {
	st, err := os.Stat(c.Relief.Dir)
	if err != nil || !st.IsDir() || os.Geteuid() != 0 {
		return nil
	}
	if r.pin == nil {
		if r.pin, err = os.Open("/proc/sys/net"); err != nil {
			return nil
		}
	}
	return []string{c.Relief.Dir, "/proc/sys/net"}
}

var (
	reliefActiveDesc = prometheus.NewDesc("ctsight_relief_active",
		"Temporary changes of a sysctl that are open (ctsight relief), by sysctl; a count.", []string{"param"}, nil)
	reliefExpiresDesc = prometheus.NewDesc("ctsight_relief_expires_timestamp_seconds",
		"When a temporary change of a sysctl is over, Unix time in seconds; past while it is overdue.", []string{"param", "netns"}, nil)
	reliefAloneDesc = prometheus.NewDesc("ctsight_relief_left_alone",
		"Temporary changes that were not taken back within the last day since somebody else had written, by sysctl; a count.", []string{"param"}, nil)
)

// Describe implements prometheus.Collector.
func (r *reliefs) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{reliefActiveDesc, reliefExpiresDesc, reliefAloneDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Those that are over first are told first.
func (r *reliefs) Collect(ch chan<- prometheus.Metric) {
	all := slices.Clone(r.now())
	slices.SortStableFunc(all, func(a, b agg.Relief) int { return a.Expires.Compare(b.Expires) })
	active, alone := map[string]int{"nf_conntrack_max": 0}, map[string]int{"nf_conntrack_max": 0}
	told := map[[2]string]bool{}
	for i := range all {
		c := &all[i]
		if !c.Open {
			if c.State == string(relief.LeftAlone) {
				alone[c.Sysctl]++
			}
			continue
		}
		active[c.Sysctl]++
		key := [2]string{c.Sysctl, r.o.Names.TableText(&agg.TableState{NetNS: c.NetNS, Name: c.NetNSName})}
		if told[key] || len(told) == reliefSeries {
			continue
		}
		told[key] = true
		ch <- prometheus.MustNewConstMetric(reliefExpiresDesc, prometheus.GaugeValue, float64(c.Expires.Unix()), key[0], key[1])
	}
	for param, n := range active {
		ch <- prometheus.MustNewConstMetric(reliefActiveDesc, prometheus.GaugeValue, float64(n), param)
	}
	for param, n := range alone {
		ch <- prometheus.MustNewConstMetric(reliefAloneDesc, prometheus.GaugeValue, float64(n), param)
	}
}
