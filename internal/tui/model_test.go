package tui

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

var errSource = errors.New("the source\x1b[2J is gone")

// fakeSource has some rows, a new count in each picture, and no filter but
// "good".
type fakeSource struct {
	rows  []int // last bytes of the addresses
	calls int
	last  Query
	fail  error
}

func (s *fakeSource) Top(q Query) (*agg.TopDoc, error) {
	s.calls++
	s.last = q
	if q.Filter != "" && q.Filter != "good" {
		return nil, fmt.Errorf("filter, column %d: no such word", len(q.Filter))
	}
	if s.fail != nil {
		return nil, s.fail
	}
	return &agg.TopDoc{Backend: fmt.Sprintf("picture-%d", s.calls), Top: s.top(q.By)}, nil
}

func (s *fakeSource) top(by agg.Dim) agg.Top {
	t := agg.Top{By: by}
	for _, n := range s.rows {
		t.Rows = append(t.Rows, agg.TopRow{Key: agg.Key{NetNS: 1, Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})}})
	}
	return t
}

func (s *fakeSource) Detail(q Query, k agg.Key) (*view.Detail, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return &view.Detail{By: q.By, Row: agg.TopRow{Key: k}, Edges: s.top(agg.ByEdge)}, nil
}

// user is a model with what a program would run for it.
type user struct {
	t       rapid.TB
	m       *model
	src     *fakeSource
	pending []tea.Cmd
}

func newUser(t rapid.TB) *user {
	u := &user{t: t, src: &fakeSource{rows: []int{1, 2, 3, 4, 5}}}
	u.m = newModel(u.src, Options{})
	u.m.o.Every = time.Nanosecond // a tick returns at once
	u.later(u.m.Init())
	u.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	u.run()
	return u
}

func (u *user) later(c tea.Cmd) {
	if c != nil {
		u.pending = append(u.pending, c)
	}
}

func (u *user) send(msg tea.Msg) {
	_, c := u.m.Update(msg)
	u.later(c)
}

// one runs a pending command.
func (u *user) one(i int) {
	c := u.pending[i]
	u.pending = slices.Delete(u.pending, i, i+1)
	switch msg := c().(type) {
	case tea.BatchMsg:
		for _, c := range msg {
			u.later(c)
		}
	case nil, tea.QuitMsg, tea.SuspendMsg:
	default:
		u.send(msg)
	}
}

// run lets some pictures come.
func (u *user) run() {
	for range 20 {
		u.one(0)
	}
}

var keys = map[string]tea.Key{
	"up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown},
	"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "backspace": {Code: tea.KeyBackspace}, "space": {Code: ' ', Text: " "},
	"ctrl+c": {Code: 'c', Mod: tea.ModCtrl}, "ctrl+u": {Code: 'u', Mod: tea.ModCtrl}, "ctrl+z": {Code: 'z', Mod: tea.ModCtrl},
}

func key(name string) tea.KeyPressMsg {
	if k, ok := keys[name]; ok {
		return tea.KeyPressMsg(k)
	}
	r, _ := utf8.DecodeRuneInString(name)
	return tea.KeyPressMsg{Code: r, Text: name}
}

// press presses keys and lets pictures come.
func (u *user) press(names ...string) {
	for _, n := range names {
		u.send(key(n))
	}
	u.run()
}

func (u *user) screen() string { return u.m.View().Content }

func (u *user) want(parts ...string) {
	u.t.Helper()
	for _, p := range parts {
		if !strings.Contains(u.screen(), p) {
			u.t.Errorf("no %q in\n%s", p, u.screen())
		}
	}
}

// fits fails if the screen does not.
func (u *user) fits() {
	u.t.Helper()
	lines := strings.Split(u.screen(), "\n")
	if len(lines) > max(1, u.m.height) {
		u.t.Errorf("%d lines of %d", len(lines), u.m.height)
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); n > max(0, u.m.width) {
			u.t.Errorf("%d cells of %d: %q", n, u.m.width, l)
		}
		if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			u.t.Errorf("control bytes in %q", l)
		}
	}
}

func TestSortAndGroup(t *testing.T) {
	u := newUser(t)
	u.want("by src, sorted by new", "> 10.0.0.1")
	u.press("s")
	u.want("sorted by new_rate")
	u.press("<", "S")
	u.want("sorted by unanswered")
	u.press("g")
	u.want("by dst")
	u.press("5")
	u.want("by netns")
	u.press("g")
	u.want("by src")
	if u.src.last.Rows == 0 {
		t.Error("no rows asked for")
	}
}

func TestCursor(t *testing.T) {
	u := newUser(t)
	u.src.rows = []int{7, 1, 2, 3}
	u.run()
	u.want("> 10.0.0.7") // none was chosen
	u.press("j", "down", "pgdown", "k")
	u.want("> 10.0.0.2")
	u.src.rows = []int{2, 3, 1, 7}
	u.run()
	u.want("> 10.0.0.2")
	u.src.rows = []int{3, 1, 7}
	u.run()
	u.want("> 10.0.0.3") // at the place of the one that is gone
	u.src.rows = nil
	u.run()
	u.press("down", "enter")
	u.src.rows = []int{9}
	u.run()
	u.want("> 10.0.0.9")
}

func TestDetail(t *testing.T) {
	u := newUser(t)
	u.press("down", "enter", "down") // the last before the detail is there
	u.want("src     10.0.0.2  netns 1", "> 192.0.2.1")
	u.press("down")
	u.want("src     10.0.0.2  netns 1", "> 192.0.2.2", "esc back")
	u.press("esc")
	u.want("> 10.0.0.2", "enter look closer")
	u.press("enter", "2") // another group goes back too
	u.want("by dst", "enter look closer")
}

func TestFreeze(t *testing.T) {
	u := newUser(t)
	u.one(0) // a picture is being made
	u.send(key("p"))
	before := u.screen()
	u.src.rows = []int{200}
	u.run()
	u.want("FROZEN")
	if u.screen() != before {
		t.Errorf("the picture changed:\n%s\n%s", before, u.screen())
	}
	u.press("s")
	u.want("space goes on", "sorted by new")
	u.press("down")
	u.want("> 10.0.0.2")
	u.press("space")
	u.want("> 10.0.0.200")
}

func TestFilter(t *testing.T) {
	u := newUser(t)
	u.press("/", "b", "a", "d", "space", "q")
	u.want("filter: bad q_")
	u.press("enter")
	u.want("filter: bad q_", "filter, column 5: no such word")
	if u.m.want.Filter != "" || u.m.doc.Backend != fmt.Sprintf("picture-%d", u.src.calls) {
		t.Errorf("the old filter %q does not go on", u.m.want.Filter)
	}
	u.press("ctrl+u")
	u.send(tea.PasteMsg{Content: "go\x1b[2J" + strings.Repeat("\n", 5000)})
	u.fits()
	u.press("ctrl+u", "g", "o", "x", "backspace", "o", "d", "enter")
	u.want("filter: good", "enter look closer")
	u.press("/", "x", "esc")
	u.want("filter: good", "enter look closer")
}

func TestFailingSource(t *testing.T) {
	u := newUser(t)
	u.src.fail = errSource
	u.run()
	u.want(`no new picture: the source\x1b[2J is gone`, "> 10.0.0.1")
	u.fits()
	u.src.fail = nil
	u.press("?")
	u.want("any key goes back")
	u.press("q")
	u.want("enter look closer")
}

func TestHelpFits(t *testing.T) {
	u := newUser(t)
	u.press("h")
	if len(help) > 24 || strings.Contains(u.screen(), "…") {
		t.Errorf("the help is too large for 80x24:\n%s", u.screen())
	}
	u.want(help[len(help)-1])
}

func TestQuit(t *testing.T) {
	for _, name := range []string{"q", "ctrl+c"} {
		_, c := newUser(t).m.Update(key(name))
		if c == nil {
			t.Fatalf("%s does nothing", name)
		}
		if _, ok := c().(tea.QuitMsg); !ok {
			t.Errorf("%s does not quit", name)
		}
	}
}

func TestResizeStorm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := newUser(t)
		for range 1000 / 100 { // times the 100 checks of rapid
			size := rapid.IntRange(-1, 300)
			u.send(tea.WindowSizeMsg{Width: size.Draw(t, "width"), Height: size.Draw(t, "height")})
			u.fits()
		}
		for _, n := range []int{0, 1} {
			u.send(tea.WindowSizeMsg{Width: n, Height: n})
			u.fits()
		}
	})
}

func TestAnyKeys(t *testing.T) {
	names := []string{"up", "down", "pgup", "pgdown", "enter", "esc", "backspace", "space", "ctrl+c", "ctrl+u", "ctrl+z", "j", "k", "s", "S", ">", "<",
		"g", "1", "2", "3", "4", "5", "6", "/", "p", "h", "?", "q", "o", "d", "\u202e", "\u65e5"}
	rapid.Check(t, func(t *rapid.T) {
		u := newUser(t)
		u.send(tea.WindowSizeMsg{Width: rapid.IntRange(0, 100).Draw(t, "width"), Height: rapid.IntRange(0, 40).Draw(t, "height")})
		t.Repeat(map[string]func(*rapid.T){
			"key":    func(t *rapid.T) { u.send(key(rapid.SampledFrom(names).Draw(t, "key"))) },
			"paste":  func(t *rapid.T) { u.send(tea.PasteMsg{Content: rapid.String().Draw(t, "paste")}) },
			"source": func(t *rapid.T) { u.src.fail = rapid.SampledFrom([]error{nil, errSource}).Draw(t, "fail") },
			"rows":   func(t *rapid.T) { u.src.rows = rapid.SliceOfN(rapid.IntRange(1, 250), 0, 30).Draw(t, "rows") },
			"go on":  func(t *rapid.T) { u.one(rapid.IntRange(0, len(u.pending)-1).Draw(t, "pending")) },
			"":       func(*rapid.T) { u.fits() },
		})
	})
}
