package metrics

import (
	"time"
)

// tally adds up one family by its labels: whatever a status holds, two of its
// rows never become the same series twice, which would fail the scrape.
type tally struct {
	f     *family
	index map[[2]string]int
	rows  []tallied
}

type tallied struct {
	labels [2]string
	n      float64
}

func newTally(f *family) *tally { return &tally{f: f, index: map[[2]string]int{}} }

// add counts n more for the labels. With n 0 it makes them known: a counter that
// appears with its first event already in it hides that event from increase().
func (t *tally) add(n float64, labels ...string) {
	var k [2]string
	copy(k[:], labels)
	i, ok := t.index[k]
	if !ok {
		i = len(t.rows)
		t.index[k] = i
		t.rows = append(t.rows, tallied{labels: k})
	}
	t.rows[i].n += n
}

// block returns the series, which began to count at start.
func (t *tally) block(start time.Time) *block {
	b := &block{}
	for i := range t.rows {
		r := &t.rows[i]
		b.add(t.f.since(start, r.n, r.labels[:len(t.f.labels)]...))
	}
	return b
}
