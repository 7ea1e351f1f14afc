package page

// For the tests that see the page from outside.
var (
	Gateway = gateway
	Hostile = hostile
	Names   = names
)
