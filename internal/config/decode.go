package config

import (
	"encoding"
	"reflect"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// decoder puts a tree of YAML into a struct. The library's own way tells no
// columns, compares each key of a mapping with all others (100,000 of them, a
// megabyte, took it 106 s), and takes aliases, which can explode.
type decoder struct {
	file  string
	dir   string // relative file names begin here
	first *Error // mistake
}

// leaf is what the tags of a field say about its value.
type leaf struct {
	path  string // as in web.listen
	check string
	span  string // tag range
}

func leafOf(path string, f reflect.StructField) leaf {
	return leaf{path: join(path, f.Tag.Get("yaml")), check: f.Tag.Get("check"), span: f.Tag.Get("range")}
}

// field is a leaf and where it is in its struct.
type field struct {
	leaf
	index int
}

// under is the leaf with its whole path.
func (f field) under(path string) leaf {
	l := f.leaf
	l.path = join(path, l.path)
	return l
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// decode puts the text into the struct that into points to.
func (d *decoder) decode(data []byte, into any) error {
	n, err := d.parse(data)
	if err != nil || n == nil {
		return err
	}
	d.value(n, reflect.ValueOf(into).Elem(), leaf{})
	if d.first != nil {
		return d.first
	}
	return nil
}

// value decodes one node; null leaves the default, so that a key may stand there
// with all that is below it commented out.
func (d *decoder) value(n *yaml.Node, v reflect.Value, l leaf) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.wrong(n, "anchors and aliases are not known here: write the value out")
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
	case isText(v):
		d.scalar(n, v, l)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, l)
	case v.Kind() == reflect.Slice:
		d.list(n, v, l)
	case v.Kind() == reflect.Map:
		d.words(n, v, l)
	default:
		d.scalar(n, v, l)
	}
}

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

// defaulter is a list's element that does not begin with zero values.
type defaulter interface{ setDefaults() }

// checker is a struct with something to check that no single key shows; the key
// is where to point at, "" the whole.
type checker interface{ check() (key, text string) }

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, l leaf) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, "%s: expected keys (%s), not %s", label(l), keys(v.Type()), kind(n))
		return
	}
	before := d.mistakes()
	fields := fieldsOf(v.Type())
	d.pairs(n, func(key, value *yaml.Node) {
		if f, ok := fields[key.Value]; ok {
			d.value(value, v.Field(f.index), f.under(l.path))
			return
		}
		d.wrong(key, "unknown key %s: %s takes %s", show(key.Value), label(l), keys(v.Type()))
	})
	if c, ok := v.Addr().Interface().(checker); ok && d.mistakes() == before {
		d.whole(n, c)
	}
}

func (d *decoder) whole(n *yaml.Node, c checker) {
	key, text := c.check()
	if text == "" {
		return
	}
	at := n
	d.pairs(n, func(k, value *yaml.Node) {
		if k.Value == key {
			at = value
		}
	})
	d.wrong(at, "%s", text)
}

// few keys are compared with each other, which is faster than a map of them.
const few = 16

// pairs visits what a mapping has, each key once.
func (d *decoder) pairs(n *yaml.Node, visit func(key, value *yaml.Node)) {
	var lines map[string]int
	if len(n.Content) > 2*few {
		lines = make(map[string]int, len(n.Content)/2)
	}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" {
			d.wrong(key, "a key must be a word, not %s", kind(key))
			continue
		}
		if line := earlier(lines, n.Content[:i], key.Value); line > 0 {
			d.wrong(key, "key %s is there twice, first in line %d: remove one", show(key.Value), line)
			continue
		}
		if lines != nil {
			lines[key.Value] = key.Line
		}
		visit(key, n.Content[i+1])
	}
}

// earlier is the line in which a key was before, or 0.
func earlier(lines map[string]int, before []*yaml.Node, key string) int {
	if lines != nil {
		return lines[key]
	}
	for i := 0; i < len(before); i += 2 {
		if before[i].Kind == yaml.ScalarNode && before[i].Value == key {
			return before[i].Line
		}
	}
	return 0
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, l leaf) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, "%s: expected a list (lines that begin with a dash), not %s", label(l), kind(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		e := out.Index(i)
		if df, ok := e.Addr().Interface().(defaulter); ok {
			df.setDefaults()
		}
		if c.ShortTag() == "!!null" {
			d.wrong(c, "%s: an empty element: remove the dash", label(l))
		}
		d.value(c, e, l)
	}
	v.Set(out)
	if text := checkList(l.path, v); text != "" {
		d.wrong(n, "%s", text)
	}
}

// words is a mapping whose keys are free.
func (d *decoder) words(n *yaml.Node, v reflect.Value, l leaf) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, "%s: expected names with values, not %s", label(l), kind(n))
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	d.pairs(n, func(key, value *yaml.Node) {
		if err := checks[l.check](key.Value); err != nil {
			d.wrong(key, "%s: %v", label(l), err)
			return
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(value, e, leaf{path: join(l.path, key.Value)})
		out.SetMapIndex(reflect.ValueOf(key.Value), e)
	})
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, l leaf) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!binary" {
		d.wrong(n, "%s: expected %s, not %s", label(l), wanted(v), kind(n))
		return
	}
	if err := wrongTag(n, v); err != nil {
		d.wrong(n, "%s: %v", label(l), err)
		return
	}
	if err := setText(v, n.Value, l); err != nil {
		d.wrong(n, "%s: %v", label(l), err)
		return
	}
	if l.check == "file" {
		v.SetString(absolute(d.dir, v.String()))
	}
}

// kind says what a node is, for messages.
func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return show(n.Value)
}

// label names a value in messages.
func label(l leaf) string {
	if l.path == "" {
		return "the file"
	}
	return oneLine(l.path)
}

// known are the fields of types by their keys: a list has the same type 10,000 times.
var known sync.Map

func fieldsOf(t reflect.Type) map[string]field {
	if m, ok := known.Load(t); ok {
		return m.(map[string]field)
	}
	out := make(map[string]field, t.NumField())
	for i := range t.NumField() {
		l := leafOf("", t.Field(i))
		out[l.path] = field{l, i}
	}
	known.Store(t, out)
	return out
}

func keys(t reflect.Type) string {
	var out []string
	for f := range t.Fields() {
		out = append(out, f.Tag.Get("yaml"))
	}
	return strings.Join(out, ", ")
}
