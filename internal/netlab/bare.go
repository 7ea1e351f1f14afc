package netlab

// NewNS makes a namespace with nothing in it, held by its descriptor alone.
func NewNS() (*NS, error) { return newNS("") }

// Close gives a namespace of NewNS up; the kernel ends it a little later.
func (n *NS) Close() error { return n.close() }
