package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// DefaultBudget is how many series a scrape has at most (contract, section 7).
const DefaultBudget = 600

// block is series that are shown all or not at all: half a table would look like
// one of which something is not known.
type block struct {
	metrics []prometheus.Metric
	n       int // series, of which a histogram has several
}

func (b *block) add(m ...prometheus.Metric) *block {
	b.metrics = append(b.metrics, m...)
	b.n += len(m)
	return b
}

// chosen is what has found room.
type chosen struct {
	metrics []prometheus.Metric
	room    int
	omitted int
}

// take adds a block if there is room for it.
func (c *chosen) take(b *block) bool {
	if b.n > c.room {
		c.omitted += b.n
		return false
	}
	c.room -= b.n
	c.metrics = append(c.metrics, b.metrics...)
	return true
}

// takeFirst adds blocks as far as there is room: none that comes after one that
// was left out, so that what is missing is always the last.
func (c *chosen) takeFirst(bs []*block) {
	for i, b := range bs {
		if !c.take(b) {
			for _, b := range bs[i+1:] {
				c.omitted += b.n
			}
			return
		}
	}
}

// Series counts the series of families as Prometheus stores them from text:
// a histogram has one for each bucket, that of +Inf among them, and two more.
func Series(mfs []*dto.MetricFamily) (n int) {
	for _, mf := range mfs {
		for _, m := range mf.Metric {
			n += series(m)
		}
	}
	return n
}

func series(m *dto.Metric) int {
	switch {
	case m.Histogram != nil:
		b := m.Histogram.Bucket
		if len(b) == 0 || !math.IsInf(b[len(b)-1].GetUpperBound(), 1) {
			return len(b) + 3
		}
		return len(b) + 2
	case m.Summary != nil:
		return len(m.Summary.Quantile) + 2
	}
	return 1
}
