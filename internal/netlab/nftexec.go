package netlab

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// Everything in this file runs other programs. It is for tests only; nothing
// that ships may call it.

// NFT loads a ruleset with nft(8) in the namespace.
func (n *NS) NFT(ruleset string) error {
	_, err := n.run(ruleset, "nft", "-f", "-")
	return err
}

// Run runs a program in the namespace and returns its standard output.
func (n *NS) Run(name string, args ...string) (string, error) { return n.run("", name, args...) }

func (n *NS) run(stdin, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	err := n.Do(func() error { // a child inherits the namespace of the thread
		cmd := exec.Command(name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
		return cmd.Run()
	})
	if err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}
