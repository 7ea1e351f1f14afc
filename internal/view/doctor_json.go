package view

import "io"

type (
	doctorDoc struct {
		Backend    outside           `json:"backend"`
		CanTrace   bool              `json:"can_trace"`
		Kernel     outside           `json:"kernel"`
		Lockdown   outside           `json:"lockdown"`
		BTF        doctorBTF         `json:"btf"`
		Privileges []doctorPrivilege `json:"privileges"`
		Remedy     outside           `json:"remedy,omitempty"`
		Hooks      []doctorHook      `json:"hooks"`
		NetNS      []doctorNetNS     `json:"netns"`
		Memory     doctorMemory      `json:"memory"`
		Bounds     []doctorSetting   `json:"bounds"`
		Sysctls    []doctorSetting   `json:"sysctls"`
		Checks     []doctorCheck     `json:"self_check"`
		Warnings   []outside         `json:"warnings"`
	}
	doctorBTF struct {
		VMLinux bool      `json:"vmlinux"`
		Modules []outside `json:"modules"`
		Missing []outside `json:"missing"`
	}
	doctorPrivilege struct {
		Name outside `json:"name"`
		Have bool    `json:"have"`
		For  outside `json:"needed_for"`
	}
	doctorHook struct {
		Symbol   outside   `json:"symbol"`
		At       outside   `json:"at,omitempty"`
		Programs []outside `json:"programs"`
		Backend  outside   `json:"backend,omitempty"`
		Status   string    `json:"status"`
		Answer   outside   `json:"answer,omitempty"`
		Lost     outside   `json:"lost_without"`
		Missed   uint64    `json:"missed,omitempty"`
	}
	doctorNetNS struct {
		NetNS uint32  `json:"netns"`
		Name  outside `json:"netns_name,omitempty"`
		Count uint64  `json:"count"`
		Max   uint64  `json:"max"`
	}
	doctorMemory struct {
		Rings uint64 `json:"rings_bytes"`
		Maps  uint64 `json:"maps_bytes"`
		User  uint64 `json:"user_bytes"`
	}
	doctorCheck struct {
		What outside `json:"what"`
		Want uint64  `json:"expected"`
		Got  uint64  `json:"seen"`
	}
	doctorSetting struct {
		Name  outside `json:"name"`
		Value outside `json:"value"`
		Note  outside `json:"note,omitempty"`
	}
)

// WriteDoctorJSON writes the report as one JSON object and a newline.
func WriteDoctorJSON(w io.Writer, d *Doctor) error {
	doc := doctorDoc{
		Backend: outside(d.Backend), CanTrace: d.CanTrace, Kernel: outside(d.Kernel), Lockdown: outside(d.Lockdown),
		BTF:    doctorBTF{d.BTF.VMLinux, allOutside(d.BTF.Modules), allOutside(d.BTF.Missing)},
		Remedy: outside(d.Remedy), Memory: doctorMemory(d.Memory), Warnings: allOutside(d.Warnings),
		Privileges: convert(d.Privileges, func(p Privilege) doctorPrivilege {
			return doctorPrivilege{outside(p.Name), p.Have, outside(p.For)}
		}),
		Hooks: convert(d.Hooks, func(h HookStatus) doctorHook {
			return doctorHook{outside(h.Symbol), outside(h.At), allOutside(h.Programs), outside(h.Backend), h.State.String(), outside(h.Answer),
				outside(h.Lost), h.Missed}
		}),
		NetNS: convert(d.NetNS, func(n NetNSTable) doctorNetNS {
			return doctorNetNS{uint32(n.NetNS), outside(n.Name), n.Count, n.Max}
		}),
		Bounds: convert(d.Bounds, settingJSON), Sysctls: convert(d.Sysctls, settingJSON),
		Checks: convert(d.Checks, func(c Check) doctorCheck { return doctorCheck{outside(c.What), c.Want, c.Got} }),
	}
	return writeJSON(w, doc)
}

func settingJSON(s Setting) doctorSetting {
	return doctorSetting{outside(s.Name), outside(s.Value), outside(s.Note)}
}

func allOutside(ss []string) []outside {
	return convert(ss, func(s string) outside { return outside(s) })
}

// convert never returns nil: an empty list is [] in JSON, not null.
func convert[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}
