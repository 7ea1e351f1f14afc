package main

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/relief"
)

var (
	inTicks  = regexp.MustCompile("`(ctsight [^`]*)`")
	block    = regexp.MustCompile("(?s)\n```\n(.*?)\n```\n")
	inBlock  = regexp.MustCompile(`(?m)^(ctsight [^#\n]*)`)
	argument = regexp.MustCompile(`'([^']*)'|(\S+)`)
	// What a reader puts in.
	placeholders = strings.NewReplacer("ADDRESS", "198.51.100.7", "REASON", "table_full", "{{ $labels.reason }}", "table_full", "src|dst|edge|prefix|netns", "src")
)

// What somebody is told to type at night is there: commands, flags and filters of
// the runbook and of the alerts.
func TestRunbookCommands(t *testing.T) {
	if lab.InVM() {
		t.Skip("the docs are not in the guest")
	}
	n := 0
	for _, path := range []string{"../../docs/runbook.md", "../../deploy/prometheus/alerts.yml"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		folded := regexp.MustCompile(`\n {12}`).ReplaceAllString(string(data), " ") // YAML
		told := inTicks.FindAllStringSubmatch(folded, -1)
		for _, b := range block.FindAllStringSubmatch(folded, -1) {
			told = append(told, inBlock.FindAllStringSubmatch(b[1], -1)...)
		}
		for _, m := range told {
			n++
			if err := understood(placeholders.Replace(m[1])); err != nil {
				t.Errorf("%s: %s: %v", path, m[1], err)
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d commands", n)
	}
	for _, wrong := range []string{"ctsight tirage", "ctsight drops --fro 30s", "ctsight drops 'raeson table_full'", "ctsight help raesons", "ctsight relief set nf_contrack_max=1"} {
		if understood(wrong) == nil {
			t.Errorf("%s is understood", wrong)
		}
	}
}

// understood runs a command as far as its flags and filter.
func understood(line string) error {
	var args []string
	for _, m := range argument.FindAllStringSubmatch(line, -1) {
		args = append(args, m[1]+m[2])
	}
	root := newRoot(io.Discard, io.Discard)
	if args[1] == "help" { // does nothing else
		root.SetArgs(args[1:])
		return root.Execute()
	}
	cmd, rest, err := root.Find(args[1:])
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if cmd.Parent() != cmd.Root() { // of relief: sysctls, ids
		for _, a := range cmd.Flags().Args() {
			if _, err := relief.ParseAsk(a); err != nil {
				return err
			}
		}
		return nil
	}
	_, err = filter.Parse(strings.Join(cmd.Flags().Args(), " "), filter.Options{})
	return err
}
