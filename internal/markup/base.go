package markup

import _ "embed"

// Base is the style sheet that all our documents begin with: colours for light and dark,
// text, tables, and the steps of heat maps.
//
//go:embed base.css
var Base string
