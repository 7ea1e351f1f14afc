package detect

// rate is the arrival rate of a subject (D7).
type rate struct{}
