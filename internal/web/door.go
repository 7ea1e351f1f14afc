package web

import (
	"crypto/sha256"
	"net/http"
	"sync"
)

// door keeps a crowd that guesses passwords from those who know one. A password
// costs exporter-toolkit some 60 ms of bcrypt, one after the other, unless it is
// among the last hundred; so only a few of those that were never right are let
// through to it at a time.
type door struct {
	few func(http.Handler) http.Handler

	mu    sync.Mutex
	known map[[sha256.Size]byte]bool // Authorization that was right
}

const (
	strangers = 4
	maxKnown  = 64
)

func newDoor() *door {
	return &door{few: limited(strangers), known: map[[sha256.Size]byte]bool{}}
}

// outside is around exporter-toolkit's handler.
func (d *door) outside(h http.Handler) http.Handler {
	few := d.few(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" && !d.knows(a) {
			few.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// inside is around our own, where those arrive whose password is right.
func (d *door) inside(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			d.learn(a)
		}
		h.ServeHTTP(w, r)
	})
}

func (d *door) knows(authorization string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[sha256.Sum256([]byte(authorization))]
}

func (d *door) learn(authorization string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxKnown {
		clear(d.known)
	}
	d.known[sha256.Sum256([]byte(authorization))] = true
}
