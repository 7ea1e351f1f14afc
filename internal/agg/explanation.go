package agg

import "time"

// Explanation is a finding with the evidence of its test, piece by piece in the
// order in which it was known: the first and the last pieces of many.
type Explanation struct {
	Finding Finding
	First   []Weighed
	Last    []Weighed // those behind First, without those of Between
	Between uint64    // pieces that are in neither
}

// Weighed is the outcome of a contact and what it has counted.
type Weighed struct {
	Time      time.Time // when it was known
	Contact   Contacted
	Increment float64 // of the log likelihood ratio, which does not fall below 0
	Tests     []Tested
	Note      string // why it counted nothing, or what it was taken for before
}

// Tested is where a test was after a piece of evidence.
type Tested struct {
	Key       string // what is tested: source, port, destination
	Statistic float64
}
