// Package uplot has uPlot, which draws time series in a browser: the files of its npm
// package as they are, under their own licence (MIT).
package uplot

import _ "embed"

// Version is that of the package.
const Version = "1.6.32"

// Files of the package.
var (
	//go:embed uPlot.iife.min.js
	Script string
	//go:embed uPlot.min.css
	Style string
	//go:embed LICENSE
	License string
)
