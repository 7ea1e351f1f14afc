// Package agg turns the stream of events into tables: which entries live and
// since when, and the ledger of drops. All of it is bounded and says what it
// left out; nothing here reads a clock, does I/O or locks. One goroutine owns a
// table, the others get snapshots.
package agg
