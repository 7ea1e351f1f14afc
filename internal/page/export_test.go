package page

// For the tests that see the page from outside.
var (
	TestGateway = gateway
	TestNames   = names
)
