package markup

import "testing"

// What is not ours is escaped wherever it stands, and comes back from Strip as it was.
func TestPut(t *testing.T) {
	w := &Writer{}
	w.Put(`<p title="{}">{} {} {}</p>`, `a"b'c`, "<script>&", uint64(1234567), 1.26)
	if want := `<p title="a&#34;b&#39;c">&lt;script&gt;&amp; 1,234,567 1.3</p>`; string(w.B) != want {
		t.Errorf("%s, want %s", w.B, want)
	}
	if got := Strip([]byte(`<b class="x">&lt;i&gt;</b> &amp; &#34;`)); got != `<i> & "` {
		t.Error(got)
	}
}

// Cells of a table are by kind, and none of them is markup.
func TestRow(t *testing.T) {
	w := &Writer{}
	w.Row("<a>", uint64(1000), Number("-"), Prose("x & y"))
	if want := `<tr><td>&lt;a&gt;</td><td class="n">1,000</td><td class="n">-</td><td class="t">x &amp; y</td></tr>`; string(w.B) != want {
		t.Errorf("%s", w.B)
	}
}
