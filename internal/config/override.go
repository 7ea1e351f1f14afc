package config

import (
	"fmt"
	"reflect"

	"github.com/spf13/pflag"
)

// Lookup returns what was given for a flag on the command line, and whether it was.
type Lookup func(flag string) (values []string, given bool)

// Given looks among the flags of a command; those left at their default were not given.
func Given(fs *pflag.FlagSet) Lookup {
	return func(name string) ([]string, bool) {
		f := fs.Lookup(name)
		if f == nil || !f.Changed {
			return nil, false
		}
		if s, ok := f.Value.(pflag.SliceValue); ok {
			return s.GetSlice(), true
		}
		return []string{f.Value.String()}, true
	}
}

// urlFlag names receivers. It has no tag, since it is a part of RemoteWrite only.
const urlFlag = "remote-write.url"

// Override returns the configuration with the values of flags in place of those of
// the file, checked like them. c stays as it is.
func (c *Config) Override(lookup Lookup) (*Config, error) {
	out := *c
	err := eachLeaf(reflect.ValueOf(&out).Elem(), "", func(l leaf, f reflect.StructField, v reflect.Value) error {
		name := f.Tag.Get("flag")
		if name == "" {
			return nil
		}
		values, given := lookup(name)
		if !given || len(values) == 0 {
			return nil
		}
		if err := override(v, values, l); err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if urls, given := lookup(urlFlag); given {
		if err := out.receivers(urls); err != nil {
			return nil, fmt.Errorf("--%s: %w", urlFlag, err)
		}
	}
	return &out, nil
}

func override(v reflect.Value, values []string, l leaf) error {
	if v.Kind() != reflect.Slice {
		return setText(v, values[len(values)-1], l)
	}
	list := reflect.MakeSlice(v.Type(), len(values), len(values))
	for i, text := range values {
		if err := setText(list.Index(i), text, l); err != nil {
			return err
		}
	}
	v.Set(list)
	return listError(l.path, v)
}

func listError(path string, v reflect.Value) error {
	if text := checkList(path, v); text != "" {
		return fmt.Errorf("%s", text)
	}
	return nil
}

// receivers makes urls all there are. One that the file knows keeps what the file
// says about it: a flag has no password.
func (c *Config) receivers(urls []string) error {
	known := map[string]RemoteWrite{}
	for _, r := range c.RemoteWrite {
		known[r.URL] = r
	}
	list := make([]RemoteWrite, len(urls))
	for i, u := range urls {
		if err := receiver(u); err != nil {
			return err
		}
		r, ok := known[u]
		if !ok {
			r = RemoteWrite{URL: u}
			r.setDefaults()
		}
		list[i] = r
	}
	c.RemoteWrite = list
	return listError("remote_write", reflect.ValueOf(list))
}
