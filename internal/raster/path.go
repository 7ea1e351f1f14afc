package raster

import (
	"math"
	"strconv"
	"strings"
)

type point struct{ x, y float64 }

// line is a part of a path that hangs together.
type line struct {
	points []point
	closed bool
}

// parsePath reads the commands M L H V C Z, large and small. Curves become short
// straight pieces.
func parsePath(d string) (out []line) {
	var at, start point
	var cmd byte
	r := reader{d}
	for r.more() {
		if c := r.s[0]; c >= 'A' {
			cmd = c
			r.s = r.s[1:]
		}
		from := point{}
		if cmd >= 'a' {
			from = at
		}
		switch cmd &^ 0x20 {
		case 'M':
			at = point{from.x + r.number(), from.y + r.number()}
			start = at
			out = append(out, line{points: []point{at}})
			cmd-- // to L: what follows without a command
			continue
		case 'L':
			at = point{from.x + r.number(), from.y + r.number()}
		case 'H':
			at.x = from.x + r.number()
		case 'V':
			at.y = from.y + r.number()
		case 'C':
			var p [4]point
			p[0] = at
			for i := 1; i < 4; i++ {
				p[i] = point{from.x + r.number(), from.y + r.number()}
			}
			at = p[3]
			if len(out) > 0 {
				l := &out[len(out)-1]
				l.points = append(l.points, curve(p)...)
			}
			continue
		case 'Z':
			if len(out) > 0 {
				out[len(out)-1].closed = true
			}
			at, cmd = start, 0
			continue
		default:
			return out // of a language that is not ours
		}
		if len(out) == 0 {
			return nil
		}
		if l := &out[len(out)-1]; l.closed {
			out = append(out, line{points: []point{start, at}})
		} else {
			l.points = append(l.points, at)
		}
	}
	return out
}

const pieces = 24 // of a curve

func curve(p [4]point) (out []point) {
	for i := 1; i <= pieces; i++ {
		t := float64(i) / pieces
		a, b, c, d := (1-t)*(1-t)*(1-t), 3*t*(1-t)*(1-t), 3*t*t*(1-t), t*t*t
		out = append(out, point{a*p[0].x + b*p[1].x + c*p[2].x + d*p[3].x, a*p[0].y + b*p[1].y + c*p[2].y + d*p[3].y})
	}
	return out
}

type reader struct{ s string }

func (r *reader) more() bool {
	r.s = strings.TrimLeft(r.s, " ,\n")
	return r.s != ""
}

// number is 0 where there is none; that is passed over.
func (r *reader) number() float64 {
	r.more()
	n := 0
	for n < len(r.s) && (r.s[n] >= '0' && r.s[n] <= '9' || r.s[n] == '.' || r.s[n] == '-' && n == 0) {
		n++
	}
	v, _ := strconv.ParseFloat(r.s[:n], 64)
	r.s = r.s[max(n, min(1, len(r.s))):]
	return v
}

// maxDashes is of a line; one of more is drawn whole.
const maxDashes = 10_000

// dashed parts a line by lengths that are drawn and left out in turn.
func dashed(l line, dash []float64) (out []line) {
	sum := 0.0
	for _, d := range dash {
		sum += d
	}
	whole := 0.0
	for i := 1; i < len(l.points); i++ {
		whole += math.Hypot(l.points[i].x-l.points[i-1].x, l.points[i].y-l.points[i-1].y)
	}
	if !(sum > 0 && whole/sum < maxDashes) {
		return []line{l}
	}
	points := l.points
	if l.closed {
		points = append(points[:len(points):len(points)], points[0])
	}
	k, left := 0, dash[0]
	now := line{points: points[:1:1]}
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		length := math.Hypot(b.x-a.x, b.y-a.y)
		for done := 0.0; done < length; {
			d := min(left, length-done)
			done, left = done+d, left-d
			p := point{a.x + (b.x-a.x)*done/length, a.y + (b.y-a.y)*done/length}
			if k%2 == 0 {
				now.points = append(now.points, p)
			}
			if left > 0 {
				continue
			}
			if k%2 == 0 {
				out = append(out, now)
			}
			k++
			left, now = max(dash[k%len(dash)], 1e-3), line{points: []point{p}}
		}
	}
	if k%2 == 0 && len(now.points) > 1 {
		out = append(out, now)
	}
	return out
}

// outline are the shapes that a line of a width covers, all of one direction, so that
// what they share is drawn once.
func outline(l line, width float64, round bool) (out []line) {
	points := l.points
	if l.closed {
		points = append(points[:len(points):len(points)], points[0])
	}
	h := width / 2
	for i, p := range points {
		end := i == 0 || i == len(points)-1
		if end && round || !end || l.closed {
			out = append(out, joint(p, h, round || !corner(points, i, l.closed)))
		}
		if i == 0 {
			continue
		}
		a := points[i-1]
		length := math.Hypot(p.x-a.x, p.y-a.y)
		if length == 0 {
			continue
		}
		dx, dy := (p.x-a.x)/length*h, (p.y-a.y)/length*h
		out = append(out, oriented(line{points: []point{{a.x - dy, a.y + dx}, {p.x - dy, p.y + dx}, {p.x + dy, p.y - dx}, {a.x + dy, a.y - dx}}, closed: true}))
	}
	return out
}

// corner says whether a line goes up or down, left or right at a point.
func corner(points []point, i int, closed bool) bool {
	n := len(points)
	straight := func(a, b point) bool { return a.x == b.x || a.y == b.y }
	before, after := i-1, i+1
	if closed && before < 0 {
		before = n - 2
	}
	if closed && after >= n {
		after = 1
	}
	return before >= 0 && after < n && straight(points[before], points[i]) && straight(points[i], points[after])
}

// joint is a square or a disc.
func joint(p point, h float64, round bool) line {
	if !round {
		return oriented(line{points: []point{{p.x - h, p.y - h}, {p.x + h, p.y - h}, {p.x + h, p.y + h}, {p.x - h, p.y + h}}, closed: true})
	}
	l := line{closed: true}
	for i := range 16 {
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / 16)
		l.points = append(l.points, point{p.x + h*cos, p.y + h*sin})
	}
	return oriented(l)
}

// oriented turns a shape that goes round the other way.
func oriented(l line) line {
	area := 0.0
	for i, p := range l.points {
		q := l.points[(i+1)%len(l.points)]
		area += p.x*q.y - q.x*p.y
	}
	if area < 0 {
		for i, j := 0, len(l.points)-1; i < j; i, j = i+1, j-1 {
			l.points[i], l.points[j] = l.points[j], l.points[i]
		}
	}
	return l
}
