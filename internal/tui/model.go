package tui

import (
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// model is what the user has chosen, and the last picture.
type model struct {
	src  Source
	o    Options
	gate gate

	width, height int

	want  Query    // what to ask for
	inner *agg.Key // the row to look closely at
	trial *string  // a filter that src has not accepted yet
	busy  bool     // src is being asked

	shown  Query // what doc is an answer to
	doc    *agg.TopDoc
	detail *view.Detail
	err    error // of the last call to src

	outside, inside cursor // the row in the list, and in a detail
	frozen, help    bool
	note            string // shown until the next key
	prompt          prompt
}

// cursor stays on the row that the user chose when others come and go, and at
// its place when that has gone, or none was chosen.
type cursor struct {
	key    agg.Key
	at     int
	chosen bool
}

// gate keeps calls to src within Run.
type gate struct {
	mu     sync.Mutex
	closed bool
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// answer is what src said.
type answer struct {
	query  Query
	inner  *agg.Key
	trial  *string
	doc    *agg.TopDoc
	detail *view.Detail
	err    error
}

// tick asks for the next picture.
type tick struct{}

func newModel(src Source, o Options) *model {
	o.Every = max(o.Every, time.Second/fps)
	if o.Rows <= 0 {
		o.Rows = 200
	}
	return &model{src: src, o: o, want: o.Query}
}

// Init asks for the first picture.
func (m *model) Init() tea.Cmd { return tea.Batch(m.ask(), m.wait()) }

func (m *model) wait() tea.Cmd {
	return tea.Tick(m.o.Every, func(time.Time) tea.Msg { return tick{} })
}

// ask calls src, unless it is being called: then its answer does.
func (m *model) ask() tea.Cmd {
	if m.busy {
		return nil
	}
	m.busy = true
	a := answer{query: m.want, inner: m.inner, trial: m.trial}
	if a.trial != nil {
		a.query.Filter = *a.trial
	}
	return func() tea.Msg {
		m.gate.mu.Lock()
		defer m.gate.mu.Unlock()
		if m.gate.closed {
			return nil
		}
		a.doc, a.err = m.src.Top(a.query)
		if a.inner != nil && a.err == nil {
			a.detail, a.err = m.src.Detail(a.query, *a.inner)
		}
		return a
	}
}

// Update takes a message.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick:
		if m.frozen {
			return m, m.wait()
		}
		return m, tea.Batch(m.ask(), m.wait())
	case answer:
		return m, m.take(&msg)
	case tea.KeyPressMsg:
		return m, m.key(msg)
	case tea.PasteMsg:
		m.prompt.insert(msg.Content)
	}
	return m, nil
}

// take shows an answer, if it is one to what is wanted now.
func (m *model) take(a *answer) tea.Cmd {
	m.busy = false
	switch {
	case m.frozen:
		return nil
	case a.trial != m.trial || a.inner != m.inner:
		return m.ask()
	case a.trial != nil:
		m.trial = nil
		if m.prompt.err = a.err; a.err != nil {
			return nil // the prompt stays, and the old filter
		}
		m.prompt.open = false
		m.want.Filter = a.query.Filter
	}
	if a.query != m.want {
		return m.ask()
	}
	if m.err = a.err; a.err != nil {
		return nil
	}
	m.shown, m.doc, m.detail = a.query, a.doc, a.detail
	m.outside.follow(a.doc.Rows)
	if a.detail != nil {
		m.inside.follow(a.detail.Edges.Rows)
	}
	return nil
}

// move moves the cursor, in a detail as soon as that is there.
func (m *model) move(by int) {
	switch {
	case m.detail != nil:
		m.inside.move(m.detail.Edges.Rows, by)
	case m.inner == nil && m.doc != nil:
		m.outside.move(m.doc.Rows, by)
	}
}

// follow finds the row again.
func (c *cursor) follow(rows []agg.TopRow) {
	for i := range rows {
		if c.chosen && rows[i].Key == c.key {
			c.at = i
			return
		}
	}
	c.move(rows, 0)
}

func (c *cursor) move(rows []agg.TopRow, by int) {
	if len(rows) == 0 {
		return
	}
	c.chosen = c.chosen || by != 0
	c.at = max(0, min(len(rows)-1, c.at+by))
	c.key = rows[c.at].Key
}

// View draws.
func (m *model) View() tea.View {
	v := tea.View{AltScreen: true}
	if m.width < 1 || m.height < 1 {
		return v
	}
	o := view.ScreenOptions{Width: m.width, Height: m.height, Color: m.o.Color, ASCII: m.o.ASCII, Sort: m.shown.Sort, Names: m.o.Names,
		Filter: m.shown.Filter, Frozen: m.frozen, Selected: &m.outside.key, Detail: m.detail, Footer: m.footer()}
	if m.detail != nil {
		o.Selected = &m.inside.key
	}
	var text string
	switch {
	case m.help:
		text = view.Page(help, o)
	case m.doc == nil:
		text = view.Page(append([]string{"ctsight top", "waiting for the first picture"}, o.Footer...), o)
	default:
		text = view.TopScreen(m.doc, o)
	}
	v.SetContent(text[:len(text)-1]) // the last line ends at the edge of the screen
	return v
}

// footer are the lines below the picture.
func (m *model) footer() []string {
	switch {
	case m.prompt.open && m.prompt.err != nil:
		return []string{m.prompt.line(m.width), m.prompt.err.Error()}
	case m.prompt.open:
		return []string{m.prompt.line(m.width)}
	case m.err != nil:
		return []string{"no new picture: " + m.err.Error()}
	case m.note != "":
		return []string{m.note}
	case m.detail != nil:
		return []string{"esc back  up down choose  s sort  space freeze  ? help  q quit"}
	}
	return []string{"? help  q quit  s sort  g group  / filter  space freeze  enter look closer"}
}
