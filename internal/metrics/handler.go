package metrics

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/ctsight/ctsight/internal/agg"
)

// reuse is how long one rendering serves all who ask: far less than anybody's
// scrape interval, long enough that a crowd at the door is served from one.
const reuse = 100 * time.Millisecond

// Handler serves the metrics of the status as text, OpenMetrics or protobuf, with
// gzip for who takes it. Scrapes that come at once, or within 100 ms of each
// other, share one call of status and one rendering per format; only the peaks
// are each client's own (Options.Peaks). The request that status is given is that
// of the first of them, and its context does not end when that client goes.
func (x *Exporter) Handler(status func(*http.Request) (*agg.Status, error)) *Handler {
	return &Handler{x: x, status: status, now: time.Now}
}

// Handler is an http.Handler of scrapes.
type Handler struct {
	x      *Exporter
	status func(*http.Request) (*agg.Status, error)
	now    func() time.Time

	mu      sync.Mutex
	current *round
	said    string // the last error that was logged
}

// round is one look at the status and what was made of it.
type round struct {
	gather func() ([]*dto.MetricFamily, error) // once
	ended  atomic.Pointer[time.Time]           // when the status was there

	mu    sync.Mutex
	pages map[pageKey]func() (*page, error) // each once
}

type pageKey struct {
	format expfmt.Format
	gzip   bool
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	round := h.join(r)
	mfs, err := round.gather()
	if err != nil && len(mfs) == 0 {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	k := pageKey{expfmt.NegotiateAccept(r.Header, accepted...), acceptsGzip(r.Header)}
	shared, err := round.page(k, mfs)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	tail, err := h.tail(k.format, mfs, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	send(w, k, shared, shared.end(tail))
}

// Gather returns what a scrape by who sent r would get. Others may read it too:
// nobody may change it.
func (h *Handler) Gather(r *http.Request) ([]*dto.MetricFamily, error) {
	mfs, err := h.join(r).gather()
	if mf := find(newPeak, mfs); mf != nil {
		mfs = append(without(newPeak, mfs), h.peaks(mf, r))
	}
	return mfs, err
}

func send(w http.ResponseWriter, k pageKey, shared *page, end []byte) {
	head := w.Header()
	head.Set("Content-Type", string(k.format))
	head.Add("Vary", "Accept, Accept-Encoding")
	head.Set("Content-Length", strconv.Itoa(len(shared.bytes)+len(end)))
	if k.gzip {
		head.Set("Content-Encoding", "gzip")
	}
	if _, err := w.Write(shared.bytes); err == nil {
		_, _ = w.Write(end) // the client is gone: nobody to tell
	}
}

// join returns the round that is under way or not yet too old, else a new one.
func (h *Handler) join(r *http.Request) *round {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.current; c != nil {
		if t := c.ended.Load(); t == nil || h.now().Sub(*t) < reuse {
			return c
		}
	}
	h.current = h.newRound(r.WithContext(context.WithoutCancel(r.Context())))
	return h.current
}

func (h *Handler) newRound(r *http.Request) *round {
	c := &round{pages: map[pageKey]func() (*page, error){}}
	c.gather = sync.OnceValues(func() ([]*dto.MetricFamily, error) {
		defer func() { c.ended.Store(new(h.now())) }() // also when status panics: the next round tries again
		s, err := h.status(r)
		if err != nil {
			return nil, err
		}
		mfs, err := h.x.Gather(s)
		h.log(err)
		return mfs, err
	})
	return c
}

// log tells of an error when it is another than the last.
func (h *Handler) log(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if text != "" && text != h.said {
		h.x.opts.Log.Error("some metrics are missing", "err", err)
	}
	h.said = text
}

// page returns what all clients of a format get, made by the first of them.
func (c *round) page(k pageKey, mfs []*dto.MetricFamily) (*page, error) {
	c.mu.Lock()
	render := c.pages[k]
	if render == nil {
		render = sync.OnceValues(func() (*page, error) {
			text, err := encode(k.format, without(newPeak, mfs))
			return newPage(text, k.gzip), err
		})
		c.pages[k] = render
	}
	c.mu.Unlock()
	return render()
}

// tail is what each client has of its own: the peaks, and the end of the document.
func (h *Handler) tail(f expfmt.Format, mfs []*dto.MetricFamily, r *http.Request) ([]byte, error) {
	var own []*dto.MetricFamily
	if mf := find(newPeak, mfs); mf != nil {
		own = append(own, h.peaks(mf, r))
	}
	b, err := encode(f, own)
	if f.FormatType() == expfmt.TypeOpenMetrics {
		b = append(b, "# EOF\n"...)
	}
	return b, err
}

// peaks is the family of peaks with the client's own numbers.
func (h *Handler) peaks(mf *dto.MetricFamily, r *http.Request) *dto.MetricFamily {
	if h.x.opts.Peaks == nil {
		return mf
	}
	own := &dto.MetricFamily{Name: mf.Name, Help: mf.Help, Type: mf.Type}
	for _, m := range peakBlock(h.x.opts.Peaks(r)).metrics {
		d := &dto.Metric{}
		if m.Write(d) == nil { // a gauge of constant labels
			own.Metric = append(own.Metric, d)
		}
	}
	return own
}
