package detect

// frozen says whether everybody fails, so that failures are evidence of nothing.
func (d *Engine) frozen() bool { return d.outage.is }

type outage struct{ is bool }
