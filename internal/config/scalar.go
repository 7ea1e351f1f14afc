package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

var duration = reflect.TypeFor[time.Duration]()

// wanted says what a value looks like.
func wanted(v reflect.Value) string {
	switch {
	case v.Type() == duration:
		return "a time such as 15s"
	case isText(v):
		return "a value"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.CanInt():
		return "a whole number"
	}
	return "a text"
}

// wrongTag refuses a quoted number and the like, which YAML tells apart and a flag
// does not.
func wrongTag(n *yaml.Node, v reflect.Value) error {
	want := ""
	switch {
	case v.Type() == duration || isText(v):
	case v.Kind() == reflect.Bool:
		want = "!!bool"
	case v.CanInt():
		want = "!!int"
	}
	if want != "" && n.ShortTag() != want {
		return fmt.Errorf("expected %s, not %s", wanted(v), show(n.Value))
	}
	return nil
}

// setText sets a value from its text, of a file or of a flag, and checks it.
func setText(v reflect.Value, text string, l leaf) error {
	if err := parseInto(v, text); err != nil {
		return err
	}
	if err := inRange(v, l.span); err != nil {
		return err
	}
	if check := checks[l.check]; check != nil {
		return check(v.Interface())
	}
	return nil
}

func parseInto(v reflect.Value, text string) (err error) {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	bad := fmt.Errorf("expected %s, not %s", wanted(v), show(text))
	switch {
	case v.Type() == duration:
		t, err := time.ParseDuration(text)
		if err != nil {
			return bad
		}
		v.SetInt(int64(t))
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return bad
		}
		v.SetBool(b)
	case v.CanInt():
		n, err := strconv.ParseInt(text, 0, v.Type().Bits())
		if err != nil {
			return bad
		}
		v.SetInt(n)
	default:
		v.SetString(text)
	}
	return nil
}

// inRange checks the tag `range:"least,most"`.
func inRange(v reflect.Value, span string) error {
	if span == "" {
		return nil
	}
	least, most, _ := strings.Cut(span, ",")
	lo, _ := strconv.ParseInt(least, 10, 64)
	hi, _ := strconv.ParseInt(most, 10, 64)
	if n := v.Int(); n < lo || n > hi {
		return fmt.Errorf("%d is not within %d and %d", n, lo, hi)
	}
	return nil
}

// Bytes is an amount of memory or disk, written with its unit: 512MiB, 2GiB; 2G, as
// flags have it, is the same. Zero is none.
type Bytes int64

var units = []struct {
	name string
	size int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"", 1}}

var errBytes = errors.New("expected an amount such as 512MiB or 2GiB")

// UnmarshalText takes a whole number and a unit.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	if s == "" {
		*b = 0
		return nil
	}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.size {
			return fmt.Errorf("%w, not %s", errBytes, show(s))
		}
		*b = Bytes(int64(n) * u.size)
		return nil
	}
	return errBytes
}

// String writes it as it can be read.
func (b Bytes) String() string {
	for i := 2; i >= 0; i-- {
		if u := units[i]; b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
