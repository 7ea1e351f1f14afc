package web

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

const (
	defaultRows = 20
	maxRows     = 1000
)

// query is what the API's parameters by, sort and top say.
type query struct {
	by   agg.Dim
	sort agg.Column
	top  int
}

// parse reads a query whose parameters are among those that are taken, once each.
func parse(raw string, taken ...string) (q query, err error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return q, badRequest("%s", err)
	}
	for name, all := range v {
		if !slices.Contains(taken, name) {
			return q, badRequest("no parameter %q here: %s", name, cmp.Or(strings.Join(taken, ", "), "there are none"))
		}
		if len(all) > 1 {
			return q, badRequest("%s is given twice", name)
		}
	}
	by, okBy := agg.ParseDim(cmp.Or(v.Get("by"), agg.BySrc.String()))
	sort, okSort := agg.ParseColumn(cmp.Or(v.Get("sort"), agg.ColNew.String()))
	top, err := strconv.Atoi(cmp.Or(v.Get("top"), strconv.Itoa(defaultRows)))
	switch {
	case !okBy:
		return q, badRequest("by=%q: %s", v.Get("by"), words(agg.NumDims))
	case !okSort:
		return q, badRequest("sort=%q: %s", v.Get("sort"), words(agg.NumColumns))
	case err != nil || top < 0 || top > maxRows:
		return q, badRequest("top=%q: a number of rows up to %d", v.Get("top"), maxRows)
	}
	return query{by, sort, top}, nil
}

// words are the names of the values below n.
func words[T interface {
	~uint8
	fmt.Stringer
}](n T) string {
	s := T(0).String()
	for v := T(1); v < n; v++ {
		s += ", " + v.String()
	}
	return s
}

func (s *Server) top(out io.Writer, r *http.Request) error {
	q, err := parse(r.URL.RawQuery, "by", "sort", "top")
	if err != nil {
		return err
	}
	doc, err := s.o.Source.Top(q.by, q.sort, q.top)
	if err != nil {
		return err
	}
	return view.WriteTopJSON(out, doc, view.TopOptions{Sort: q.sort, Names: s.o.Names})
}

func (s *Server) drops(out io.Writer, r *http.Request) error {
	q, err := parse(r.URL.RawQuery, "top")
	if err != nil {
		return err
	}
	doc, err := s.o.Source.Ledger(r.Context())
	if err != nil {
		return err
	}
	return view.WriteLedgerJSON(out, doc, view.LedgerOptions{Top: q.top, Names: s.o.Names})
}

func (s *Server) table(out io.Writer, r *http.Request) error {
	if _, err := parse(r.URL.RawQuery); err != nil {
		return err
	}
	return view.WriteTableJSON(out, s.o.Source.Status(), view.TopOptions{Names: s.o.Names})
}

// findings are one JSON object per line.
func (s *Server) findings(out io.Writer, r *http.Request) error {
	if _, err := parse(r.URL.RawQuery); err != nil {
		return err
	}
	all := s.o.Source.Status().Findings
	for i := range all {
		if err := view.WriteFindingJSON(out, &all[i], view.FindingOptions{Names: s.o.Names}); err != nil {
			return err
		}
	}
	return nil
}

// relief are temporary changes of sysctls, as ctsight relief list -o json has them.
func (s *Server) relief(out io.Writer, r *http.Request) error {
	if _, err := parse(r.URL.RawQuery); err != nil {
		return err
	}
	status := s.o.Source.Status()
	return view.WriteReliefJSON(out, &view.ReliefDoc{At: status.At, Changes: status.Reliefs}, s.o.Names)
}

// flight is the flight recorder.
func (s *Server) flight(out io.Writer, r *http.Request) error {
	if _, err := parse(r.URL.RawQuery); err != nil {
		return err
	}
	return view.WriteFlightJSON(out, s.o.Source.Status().Flight)
}
