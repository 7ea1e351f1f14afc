package tui

import (
	"strings"
	"unicode"

	tea "charm.land/bubbletea/v2"

	"github.com/ctsight/ctsight/internal/agg"
)

// help fits into 80x24.
var help = []string{
	"ctsight top: keys                                         any key goes back",
	"  up down j k PgUp PgDn    choose a row",
	"  s S or > <               sort by the next, by the previous column",
	"  g or 1 2 3 4 5           group by source, destination, edge, prefix, netns",
	"  /                        filter, as in: src 10.0.0.0/8 and dport 53",
	"  space p                  freeze the picture, go on",
	"  enter                    look closer at a row",
	"  esc backspace            back",
	"  ? h, q ctrl-c            this help, quit",
	"",
	"[#####|##|#| ]    fill of a table; marks at 70 (trend), 85 (action), 95 %",
	"                  (critical); time to full with its range",
	"new, new/s        new connections since the start, per second in the last one",
	"10s, 1m, peak/s   per second in the last 10 s, minute, in the busiest 10 ms",
	"live, destroyed   entries in the table, and out of it again",
	"drops             packets lost, those to the operator's own rules apart",
	"evicted           entries lost early, to make room for others",
	"evictor           entries of anybody that had to make room for this one",
	"dsts, ports       how many different ones; about 6.5 % off above 64",
	"answered, refused, unanswered    what became of first contacts",
	"why               entries by cause of their end, packets by reason of their loss",
	"records           what the kernel told us, and what of it was lost",
}

// page is how many rows PgUp and PgDn move.
const page = 10

// key does what a key means.
func (m *model) key(k tea.KeyPressMsg) tea.Cmd {
	m.note = ""
	switch name := k.String(); {
	case name == "ctrl+c":
		return tea.Quit
	case name == "ctrl+z":
		return tea.Suspend
	case m.help:
		m.help = false
		return nil
	case m.prompt.open:
		return m.edit(name, k.Text)
	default:
		return m.command(name)
	}
}

func (m *model) command(name string) tea.Cmd {
	switch name {
	case "q":
		return tea.Quit
	case "?", "h":
		m.help = true
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-page)
	case "pgdown":
		m.move(page)
	case "space", "p":
		m.frozen = !m.frozen
		return m.changed()
	case "esc", "backspace":
		if m.inner != nil {
			m.inner, m.detail = nil, nil
			return m.changed()
		}
	default:
		return m.choose(name)
	}
	return nil
}

// choose does what asks for another picture, which a frozen screen does not.
func (m *model) choose(name string) tea.Cmd {
	want, open, inner := m.want, false, m.inner
	switch name {
	case "s", ">":
		want.Sort = (want.Sort + 1) % agg.NumColumns
	case "S", "<":
		want.Sort = (want.Sort + agg.NumColumns - 1) % agg.NumColumns
	case "g":
		want.By = (want.By + 1) % agg.NumDims
	case "1", "2", "3", "4", "5":
		want.By = agg.Dim(name[0] - '1')
	case "/":
		open = true
	case "enter":
		if inner != nil || m.doc == nil || len(m.doc.Rows) == 0 || m.shown.By != m.want.By {
			return nil
		}
		key := m.outside.key
		inner = &key
	default:
		return nil
	}
	if m.frozen {
		m.note = "the picture is frozen: space goes on"
		return nil
	}
	if open {
		m.prompt = prompt{open: true, text: []rune(m.want.Filter)}
		return nil
	}
	if want.By != m.want.By {
		m.outside, m.detail, inner = cursor{}, nil, nil
	}
	if inner != m.inner {
		m.inside = cursor{}
	}
	m.want, m.inner = want, inner
	return m.changed()
}

// changed asks for the picture that is wanted now.
func (m *model) changed() tea.Cmd {
	if m.frozen {
		return nil
	}
	return m.ask()
}

// prompt is the line in which a filter is typed.
type prompt struct {
	open bool
	text []rune
	err  error // of the filter that was tried last
}

// maxPrompt bounds what a paste can do.
const maxPrompt = 1000

func (p *prompt) insert(s string) {
	if !p.open {
		return
	}
	for _, r := range s {
		if unicode.IsSpace(r) {
			r = ' '
		}
		if len(p.text) < maxPrompt {
			p.text = append(p.text, r)
		}
	}
}

// line shows the end of the text, where the cursor is.
func (p *prompt) line(width int) string {
	text := p.text[max(0, len(p.text)-max(0, width-len("filter: _"))):]
	return "filter: " + string(text) + "_"
}

func (m *model) edit(name, text string) tea.Cmd {
	p := &m.prompt
	switch name {
	case "enter":
		filter := strings.TrimSpace(string(p.text))
		m.trial = &filter
		return m.ask()
	case "esc":
		*p, m.trial = prompt{}, nil
	case "backspace":
		p.text = p.text[:max(0, len(p.text)-1)]
	case "ctrl+u":
		p.text = nil
	default:
		p.insert(text)
	}
	return nil
}
