package pods

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxName cuts names that are free text. Units and containers may have 255 bytes,
// and whoever may make cgroups chooses them.
const maxName = 64

func cutBoth(s, prefix, suffix string) (string, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	s, ok2 := strings.CutSuffix(s, suffix)
	return s, ok && ok2 && s != ""
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// unescape undoes what systemd does to names of units: \x2d is a dash.
func unescape(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], `\x`) && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// clean makes text that others chose valid and short. A cut shows as "..".
func clean(s string) string {
	if len(s) > maxName {
		s = s[:maxName-2]
		for range utf8.UTFMax - 1 { // not in the middle of a character
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
		s += ".."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
