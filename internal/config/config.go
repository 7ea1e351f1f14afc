// Package config is the configuration file of `ctsight serve`: its keys, their
// defaults, and what is wrong with a file, by line and column. One description,
// the tags of Config, says for each key its name, the flag that wins over it,
// what is checked, and whether a reload can change it. What the values do is for
// those who take them.
package config

import (
	"os"
	"path/filepath"
	"time"
)

// Config is a whole configuration. A value that was given out is not changed any
// more. Tags: `yaml` is the key; `flag` the flag that wins over it; `check` a name
// in checks; `range` the least and the highest number; `reload:"live"` says that a
// reload changes it, anything else takes effect after a restart.
type Config struct {
	Backend     string        `yaml:"backend" flag:"backend" check:"backend"`
	NetNS       string        `yaml:"netns" flag:"netns"` // by name or inode; "" is all
	Web         Web           `yaml:"web"`
	Metrics     Metrics       `yaml:"metrics"`
	Limits      Limits        `yaml:"limits"`
	RemoteWrite []RemoteWrite `yaml:"remote_write" reload:"live"`
	Detect      Detect        `yaml:"detect"`
	Feed        Feed          `yaml:"feed"`
	Flight      Flight        `yaml:"flight"`
	Relief      Relief        `yaml:"relief"`
	Sandbox     Sandbox       `yaml:"sandbox"`
	CRI         CRI           `yaml:"cri"`
	Log         Log           `yaml:"log"`
}

// Web is the HTTP server.
type Web struct {
	Listen         []string `yaml:"listen" flag:"web.listen-address" check:"listen"`
	ConfigFile     string   `yaml:"config_file" flag:"web.config.file" check:"file"` // TLS and passwords, of exporter-toolkit
	TelemetryPath  string   `yaml:"telemetry_path" flag:"web.telemetry-path" check:"urlpath"`
	MaxConnections int      `yaml:"max_connections" range:"1,100000"`
	EnableReload   bool     `yaml:"enable_reload"` // POST /-/reload
}

// Metrics is what is exported.
type Metrics struct {
	// TopPrefixes is how many source prefixes get series of their own.
	TopPrefixes int `yaml:"top_prefixes" flag:"metrics.top-prefixes" range:"0,100"`
}

// Limits bound the memory of this process.
type Limits struct {
	Sources int   `yaml:"sources" range:"1024,4194304"` // rows of each dimension
	Live    int   `yaml:"live" range:"1024,67108864"`   // entries that are known
	Memory  Bytes `yaml:"memory" check:"memory" reload:"live"`
}

// RemoteWrite is one receiver of remote write.
type RemoteWrite struct {
	URL             string            `yaml:"url" check:"url"`
	Interval        time.Duration     `yaml:"interval" check:"interval"`
	ExternalLabels  map[string]string `yaml:"external_labels" check:"label"`
	BasicAuth       BasicAuth         `yaml:"basic_auth"`
	BearerTokenFile string            `yaml:"bearer_token_file" check:"file"`
	TLS             TLS               `yaml:"tls"`
}

// BasicAuth is a user and the file with the password.
type BasicAuth struct {
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file" check:"file"`
}

// TLS is how a receiver is trusted.
type TLS struct {
	CAFile             string `yaml:"ca_file" check:"file"` // "" is the roots of the system
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// Relief is where the journal of `ctsight relief` is.
type Relief struct {
	Dir string `yaml:"dir" check:"file"`
}

// Sandbox is what the process gives up once it traces.
type Sandbox struct {
	Capabilities string `yaml:"capabilities" check:"capabilities"` // drop, keep
	Landlock     string `yaml:"landlock" check:"landlock"`         // auto, on, off
}

// CRI is where names of pods come from.
type CRI struct {
	Socket string `yaml:"socket" flag:"cri.socket" check:"file"`
}

// Log is the messages on stderr.
type Log struct {
	Level  string `yaml:"level" flag:"log.level" check:"level" reload:"live"`
	Format string `yaml:"format" flag:"log.format" check:"format"`
}

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		Backend: "auto",
		Web:     Web{Listen: []string{":9781"}, TelemetryPath: "/metrics", MaxConnections: 100, EnableReload: true},
		Limits:  Limits{Sources: 1 << 18, Live: 1 << 22},
		Feed: Feed{Format: "json", Blocklist: true, NFT: NFT{Hook: "prerouting", Action: "drop"},
			NATS: NATS{Subject: "ctsight.findings"}},
		Flight:  Flight{Size: 1 << 30, Age: 24 * time.Hour, Kept: 1 << 30, Before: 5 * time.Minute, After: 2 * time.Minute},
		Relief:  Relief{Dir: "/var/lib/ctsight/relief"},
		Sandbox: Sandbox{Capabilities: "drop", Landlock: "auto"},
		Log:     Log{Level: "info", Format: "text"},
	}
}

// setDefaults is called before a receiver is decoded.
func (r *RemoteWrite) setDefaults() { r.Interval = 15 * time.Second }

// Files are the files that the configuration names and that are read again while
// it runs: what a sandbox must leave readable. Those which the file of Web.ConfigFile
// names (certificates, keys) are not among them.
func (c *Config) Files() []string {
	names := []string{c.Web.ConfigFile}
	for _, r := range c.RemoteWrite {
		names = append(names, r.BasicAuth.PasswordFile, r.BearerTokenFile, r.TLS.CAFile)
	}
	n := &c.Feed.NATS
	names = append(names, n.CredentialsFile, n.BasicAuth.PasswordFile, n.TLS.CAFile)
	var out []string
	for _, n := range names {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

// Load reads and checks a file. Relative file names in it begin at its directory.
func Load(path string) (*Config, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse checks the content of the file called name, which errors tell. What it
// does not say is as in Default.
func Parse(name string, data []byte) (*Config, error) {
	c := Default()
	d := &decoder{file: name, dir: filepath.Dir(name)}
	if err := d.decode(data, c); err != nil {
		return nil, err
	}
	return c, nil
}

// absolute makes a file name of the configuration one that holds anywhere; - is no
// file.
func absolute(dir, name string) string {
	if name == "" || name == "-" || filepath.IsAbs(name) {
		return name
	}
	if !filepath.IsAbs(dir) {
		if wd, err := os.Getwd(); err == nil {
			dir = filepath.Join(wd, dir)
		}
	}
	return filepath.Join(dir, name)
}
