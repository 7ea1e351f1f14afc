package relief

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ReadMemory is what there is on this host, for entries of so many bytes each.
func ReadMemory(entry int) (Memory, error) {
	m := Memory{Entry: entry}
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, fmt.Errorf("how much memory there is: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		name, rest, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 53)
		if err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			m.Total = kib << 10
		case "MemAvailable":
			m.Available = kib << 10
		}
	}
	return m, nil
}
