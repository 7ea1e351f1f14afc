package config

import (
	"errors"
	"fmt"
	"time"
)

// Flight is the flight recorder: what is traced goes to a ring of files, and what was
// around a finding is kept.
type Flight struct {
	Dir    string        `yaml:"dir" flag:"flight.dir" check:"file"` // "" for none
	Size   Bytes         `yaml:"size" check:"disk"`                  // of the ring
	Age    time.Duration `yaml:"age" check:"age"`                    // of what is in it; 0 for any
	Kept   Bytes         `yaml:"kept" check:"disk"`                  // of what is kept
	Before time.Duration `yaml:"before" check:"around"`              // what is kept with a finding
	After  time.Duration `yaml:"after" check:"around"`
}

func (f *Flight) check() (key, text string) {
	off := Default().Flight
	switch off.Dir = f.Dir; {
	case f.Dir == "" && *f != off:
		return "", "flight: no dir, so nothing is recorded: add it, such as /var/lib/ctsight/flight"
	case f.Age != 0 && f.Age < f.Before+f.After:
		return "age", fmt.Sprintf("flight.age: %v is less than before and after, %v: make it longer, or 0 for any", f.Age, f.Before+f.After)
	}
	return "", ""
}

// disk is room of which a sixteenth, a file of the ring, is still worth it.
func disk(v any) error {
	if b := v.(Bytes); b < 16<<20 {
		return fmt.Errorf("%v is too little, at least 16MiB", b)
	}
	return nil
}

func age(v any) error {
	if d := v.(time.Duration); d != 0 && d < time.Minute {
		return fmt.Errorf("%v is too short: 1m at least, or 0 for whatever there is room for", d)
	}
	return nil
}

func around(v any) error {
	if d := v.(time.Duration); d < 10*time.Second || d > time.Hour {
		return errors.New("expected a time between 10s and 1h")
	}
	return nil
}
