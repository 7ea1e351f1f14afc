package view

import (
	"bytes"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

func TestFlight(t *testing.T) {
	for _, c := range []struct {
		f    *agg.Flight
		want string
	}{
		{nil, `{"dir":null,"oldest":null,"bytes":null,"segments":null,"events":null,"lost":null,"omitted":null,"failing":null,"kept":[]}` + "\n"},
		{&agg.Flight{Dir: "/r", Oldest: time.Unix(1763925600, 5), Bytes: 7, Segments: 1, Events: 9},
			`{"dir":"/r","oldest":"2025-11-23T19:20:00.000000005Z","bytes":7,"segments":1,"events":9,"lost":0,"omitted":0,"failing":null,"kept":[]}` + "\n"},
		{&agg.Flight{Dir: "a\x1bb", Oldest: time.Unix(1763925600, 0), Lost: 2, Omitted: 3, Err: "full\u202e", Kept: []agg.Recording{{Name: "n", Dir: "/r/kept/n", Bytes: 8, Why: "w\x00"}, {}}},
			`{"dir":"a\u001bb","oldest":"2025-11-23T19:20:00.000000000Z","bytes":0,"segments":0,"events":0,"lost":2,"omitted":3,"failing":"full\u202e","kept":[{"name":"n","dir":"/r/kept/n","bytes":8,"why":"w\u0000"},{"name":"","dir":"","bytes":0,"why":""}]}` + "\n"},
	} {
		var b bytes.Buffer
		if err := WriteFlightJSON(&b, c.f); err != nil || b.String() != c.want {
			t.Errorf("%v\n%s\nwant\n%s", err, &b, c.want)
		}
	}
}
