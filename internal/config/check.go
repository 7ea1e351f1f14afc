package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// checks are the names in the tag `check`; each is given the value as its type.
var checks = map[string]func(any) error{
	"backend":      oneOf("auto", "fentry", "kprobe", "netfilter", "netlink"),
	"capabilities": oneOf("drop", "keep"),
	"landlock":     oneOf("auto", "on", "off"),
	"level":        oneOf("debug", "info", "warn", "error"),
	"format":       oneOf("text", "json"),
	"listen":       listen,
	"urlpath":      urlPath,
	"url":          receiver,
	"interval":     interval,
	"label":        labelName,
	"memory":       memory,
	"disk":         disk,
	"age":          age,
	"around":       around,
	"file":         fileName,
	"words":        words,
	"feed":         oneOf("json", "eve", "ecs", "plain"),
	"hook":         oneOf("prerouting", "input", "forward"),
	"action":       oneOf("drop", "count"),
	"nats":         natsServer,
	"subject":      subject,
}

func oneOf(words ...string) func(any) error {
	return func(v any) error {
		if slices.Contains(words, v.(string)) {
			return nil
		}
		return fmt.Errorf("expected %s, not %s", strings.Join(words, ", "), show(v.(string)))
	}
}

// listen takes host:port with a number for the port, since a sandbox has to know
// it, and unix:/path.
func listen(v any) error {
	s := v.(string)
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s: expected unix:/path with a whole path", show(s))
		}
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s: expected host:port or :port with a number for the port (IPv6 in brackets), or unix:/path", show(s))
	}
	return nil
}

// urlPath leaves out what the page, the API and the probes have.
func urlPath(v any) error {
	s := v.(string)
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Path != s || !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, " {}"):
		return fmt.Errorf("%s: expected a plain path such as /metrics", show(s))
	case s == "/" || s == "/blocklist" || under(s, "/-") || under(s, "/api") || under(s, "/static"):
		return fmt.Errorf("%s is taken by the page or the API: use another path, such as /metrics", show(s))
	}
	return nil
}

func under(s, dir string) bool { return s == dir || strings.HasPrefix(s, dir+"/") }

func receiver(v any) error {
	u, err := url.Parse(v.(string))
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		// Not quoted: it may have a password in it.
		return errors.New("expected an address such as https://host:9090/api/v1/write")
	case u.User != nil:
		return errors.New("no user and password in an address: use basic_auth with a password_file")
	case u.Fragment != "":
		return errors.New("an address has no part after #: remove it")
	}
	return nil
}

func interval(v any) error {
	if d := v.(time.Duration); d < time.Second || d > time.Hour {
		return fmt.Errorf("%v is not within 1s and 1h", d)
	}
	return nil
}

var label1 = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func labelName(v any) error {
	if s := v.(string); !label1.MatchString(s) || strings.HasPrefix(s, "__") {
		return fmt.Errorf("%s is no label: letters, digits and _, and no __ at the beginning", show(s))
	}
	return nil
}

// memory refuses what the garbage collector could only chase in vain.
func memory(v any) error {
	if b := v.(Bytes); b != 0 && b < 64<<20 {
		return fmt.Errorf("%v is too little, at least 64MiB; leave it out for no limit", b)
	}
	return nil
}

func fileName(v any) error {
	if strings.ContainsAny(v.(string), "\x00\n\r") {
		return fmt.Errorf("%s is no file name", show(v.(string)))
	}
	return nil
}

// maxListed bounds the lists, each element of which is a server, a queue or a label.
const maxListed = 16

// checkList checks a list as a whole and returns what is wrong.
func checkList(path string, v reflect.Value) string {
	switch l := v.Interface().(type) {
	case []string:
		if len(l) == 0 {
			return path + ": an empty list: name at least one, or leave the key out"
		}
		if len(l) > maxListed {
			return fmt.Sprintf("%s: %d are too many, at most %d", path, len(l), maxListed)
		}
		if s := repeated(l); s != "" {
			return path + ": " + show(s) + " is there twice: remove one"
		}
	case []Allow:
		return checkAllow(path, l)
	case []RemoteWrite:
		if len(l) > maxListed {
			return fmt.Sprintf("%s: %d are too many, at most %d", path, len(l), maxListed)
		}
		urls := make([]string, len(l))
		for i, r := range l {
			urls[i] = r.URL
		}
		if repeated(urls) != "" {
			return path + ": two receivers with the same url would get everything twice: remove one"
		}
	}
	return ""
}

// repeated is the first that is there twice, or "".
func repeated(l []string) string {
	for i, s := range l {
		if slices.Contains(l[:i], s) {
			return s
		}
	}
	return ""
}

// check is about a receiver as a whole.
func (r *RemoteWrite) check() (key, text string) {
	secret := r.BasicAuth != BasicAuth{} || r.BearerTokenFile != ""
	switch {
	case r.URL == "":
		return "", "remote_write: a receiver without url: add it"
	case r.BasicAuth != BasicAuth{} && r.BearerTokenFile != "":
		return "bearer_token_file", "remote_write: basic_auth or bearer_token_file, not both: remove one"
	case len(r.ExternalLabels) > maxListed:
		return "external_labels", fmt.Sprintf("remote_write.external_labels: more than %d: remove some", maxListed)
	case r.TLS != TLS{} && !strings.HasPrefix(r.URL, "https:"):
		return "tls", "remote_write.tls: the url is not https: change one of them"
	case secret && r.TLS.InsecureSkipVerify:
		return "tls", "remote_write.tls: a password or token would go to a receiver nobody has verified: name its ca_file"
	}
	return "", ""
}

func (b *BasicAuth) check() (key, text string) {
	if b.Username == "" || b.PasswordFile == "" {
		return "", "basic_auth: needs both username and password_file"
	}
	return "", ""
}
