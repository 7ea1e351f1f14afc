package web

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

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

func parse(v url.Values) (q query, err error) {
	for name := range v {
		if name != "by" && name != "sort" && name != "top" {
			return q, badRequest("no parameter %q: by, sort, top", name)
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

// answer writes what one of the writers makes, whole or not at all.
func answer(w http.ResponseWriter, contentType string, write func(io.Writer) error) {
	var b bytes.Buffer
	err := write(&b)
	var bad RequestError
	switch {
	case errors.As(err, &bad):
		fail(w, http.StatusBadRequest, err.Error())
	case err != nil:
		fail(w, http.StatusServiceUnavailable, err.Error())
	default:
		send(w, contentType, &b)
	}
}

const jsonType = "application/json"

func (s *Server) top(w http.ResponseWriter, r *http.Request) {
	answer(w, jsonType, func(out io.Writer) error {
		q, err := parse(r.URL.Query())
		if err != nil {
			return err
		}
		doc, err := s.o.Source.Top(q.by, q.sort, q.top)
		if err != nil {
			return err
		}
		return view.WriteTopJSON(out, doc, view.TopOptions{Sort: q.sort, Names: s.o.Names})
	})
}

func (s *Server) drops(w http.ResponseWriter, r *http.Request) {
	answer(w, jsonType, func(out io.Writer) error {
		q, err := parse(r.URL.Query())
		if err != nil {
			return err
		}
		doc, err := s.o.Source.Ledger(r.Context())
		if err != nil {
			return err
		}
		return view.WriteLedgerJSON(out, doc, view.LedgerOptions{Top: q.top, Names: s.o.Names})
	})
}

func (s *Server) table(w http.ResponseWriter, _ *http.Request) {
	answer(w, jsonType, func(out io.Writer) error {
		return view.WriteTableJSON(out, s.o.Source.Status(), view.TopOptions{Names: s.o.Names})
	})
}

// findings are one JSON object per line.
func (s *Server) findings(w http.ResponseWriter, _ *http.Request) {
	answer(w, "application/jsonl", func(out io.Writer) error {
		all := s.o.Source.Status().Findings
		for i := range all {
			if err := view.WriteFindingJSON(out, &all[i], view.FindingOptions{Names: s.o.Names}); err != nil {
				return err
			}
		}
		return nil
	})
}
