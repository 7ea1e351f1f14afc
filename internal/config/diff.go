package config

import "reflect"

// eachLeaf visits every value that has a key of its own.
func eachLeaf(v reflect.Value, path string, visit func(leaf, reflect.StructField, reflect.Value) error) error {
	for f, fv := range v.Fields() {
		l := leafOf(path, f)
		var err error
		if fv.Kind() == reflect.Struct && !isText(fv) {
			err = eachLeaf(fv, l.path, visit)
		} else {
			err = visit(l, f, fv)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Diff names the keys that next has other values of: those which a reload can
// change, and those which take effect after a restart only.
func (c *Config) Diff(next *Config) (live, restart []string) {
	c.compare(next, func(l leaf, isLive bool, _, _ reflect.Value) {
		if isLive {
			live = append(live, l.path)
		} else {
			restart = append(restart, l.path)
		}
	})
	return live, restart
}

// reloaded is what runs after a reload of next: it, but with the values of c where
// those need a restart. So a second reload tells the same again, until somebody
// has restarted or taken it back.
func (c *Config) reloaded(next *Config) *Config {
	out := *next
	c.compare(&out, func(_ leaf, isLive bool, now, later reflect.Value) {
		if !isLive {
			later.Set(now)
		}
	})
	return &out
}

// compare visits the values that differ.
func (c *Config) compare(next *Config, visit func(l leaf, isLive bool, now, later reflect.Value)) {
	now := map[string]reflect.Value{}
	_ = eachLeaf(reflect.ValueOf(c).Elem(), "", func(l leaf, _ reflect.StructField, v reflect.Value) error {
		now[l.path] = v
		return nil
	})
	_ = eachLeaf(reflect.ValueOf(next).Elem(), "", func(l leaf, f reflect.StructField, v reflect.Value) error {
		if !same(now[l.path], v) {
			visit(l, f.Tag.Get("reload") == "live", now[l.path], v)
		}
		return nil
	})
}

// same takes a list that is empty for one that is not there.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
