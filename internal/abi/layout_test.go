package abi_test

import (
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/ctsight/ctsight/internal/abi"
)

// objects are the embedded objects by the prefix of their Go names.
var objects = map[string]func() (*ebpf.CollectionSpec, error){
	"Conntrack": abi.LoadConntrack,
	"Legacy":    abi.LoadLegacy,
	"Nflink":    abi.LoadNflink,
}

// TestLayout holds every struct that bpf2go wrote against the BTF of the
// object it was written from: size, and offset and size of every field.
func TestLayout(t *testing.T) {
	files, err := filepath.Glob("*_bpfel.go")
	if err != nil || len(files) != len(objects) {
		t.Fatalf("generated files %v (%v), want one for each of %d objects", files, err, len(objects))
	}
	for _, file := range files {
		base, _, _ := strings.Cut(filepath.Base(file), "_")
		prefix := strings.ToUpper(base[:1]) + base[1:]
		t.Run(prefix, func(t *testing.T) {
			spec := load(t, prefix)
			want := structs(t, spec.Types)
			checked := 0
			for name, s := range goStructs(t, file) {
				c := want[strings.TrimPrefix(name, prefix)]
				if c == nil {
					t.Errorf("%s: no such struct in the object", name)
					continue
				}
				same(t, name, s, c)
				checked++
			}
			t.Logf("%d structs agree", checked)
		})
	}
}

// TestSizes are sizes that the programs and the reader count on.
func TestSizes(t *testing.T) {
	have := structs(t, load(t, "Conntrack").Types)
	const line = 64
	if n := have["CtRec"].Size; n != 128 {
		t.Errorf("struct ct_rec has %d bytes, want two cache lines", n)
	}
	if n := have["CtExt"].Size; n != have["CtRec"].Size {
		t.Errorf("struct ct_ext has %d bytes, want those of ct_rec", n)
	}
	for _, name := range []string{"CtCount", "CtCpu"} {
		if n := have[name].Size; n%line != 0 {
			t.Errorf("%s has %d bytes, no whole number of cache lines", name, n)
		}
	}
	if n := offset(t, have["CtCpu"], "tail"); n%line != 0 {
		t.Errorf("ct_cpu.tail at %d shares a cache line with what programs write", n)
	}
	// What a record and its second half have in common.
	for _, field := range []string{"seq", "kind"} {
		if r, x := offset(t, have["CtRec"], field), offset(t, have["CtExt"], field); r != x {
			t.Errorf("%s at %d in ct_rec and at %d in ct_ext", field, r, x)
		}
	}
}

func load(t *testing.T, prefix string) *ebpf.CollectionSpec {
	t.Helper()
	open := objects[prefix]
	if open == nil {
		t.Fatalf("no object for the prefix %s", prefix)
	}
	spec, err := open()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// structs are the named structs of an object, by the name bpf2go gives them.
func structs(t *testing.T, spec *btf.Spec) map[string]*btf.Struct {
	t.Helper()
	out := map[string]*btf.Struct{}
	for typ, err := range spec.All() {
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := typ.(*btf.Struct); ok && s.Name != "" {
			out[camel(s.Name)] = s
		}
	}
	return out
}

// camel is bpf2go's translation of a C name.
func camel(c string) string {
	var b strings.Builder
	for _, part := range strings.Split(c, "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}

// goStructs type-checks a generated file and returns the structs in it that
// come from C: those that are laid out as the host does.
func goStructs(t *testing.T, file string) map[string]*types.Struct {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	// What is imported besides structs is of no interest: errors about it are
	// left out.
	conf := types.Config{Importer: hostLayout{}, Error: func(error) {}, Sizes: sizes}
	pkg, _ := conf.Check("abi", fset, []*ast.File{f}, nil)
	out := map[string]*types.Struct{}
	for _, name := range pkg.Scope().Names() {
		s, ok := pkg.Scope().Lookup(name).Type().Underlying().(*types.Struct)
		if ok && s.NumFields() > 0 && s.Field(0).Type().String() == "structs.HostLayout" {
			out[name] = s
		}
	}
	if len(out) == 0 && !strings.HasPrefix(file, "nflink") {
		t.Fatalf("%s: no structs found", file)
	}
	return out
}

var sizes = types.SizesFor("gc", "amd64")

// hostLayout imports package structs and nothing else.
type hostLayout struct{}

func (hostLayout) Import(path string) (*types.Package, error) {
	if path != "structs" {
		return nil, errors.New("not needed")
	}
	return importer.ForCompiler(token.NewFileSet(), "source", nil).Import(path)
}

// same compares one struct.
func same(t *testing.T, name string, g *types.Struct, c *btf.Struct) {
	t.Helper()
	if n := sizes.Sizeof(g); n != int64(c.Size) {
		t.Errorf("%s has %d bytes in Go, %d in C", name, n, c.Size)
	}
	fields := make([]*types.Var, g.NumFields())
	for i := range fields {
		fields[i] = g.Field(i)
	}
	at := sizes.Offsetsof(fields)
	members := map[string]btf.Member{}
	for _, m := range c.Members {
		members[camel(m.Name)] = m
	}
	for i, f := range fields {
		if f.Name() == "_" {
			continue // layout mark, padding
		}
		m, ok := members[f.Name()]
		if !ok {
			t.Errorf("%s.%s: no such field in C", name, f.Name())
			continue
		}
		delete(members, f.Name())
		if at[i] != int64(m.Offset.Bytes()) {
			t.Errorf("%s.%s at %d in Go, at %d in C", name, f.Name(), at[i], m.Offset.Bytes())
		}
		if n, err := btf.Sizeof(m.Type); err != nil || sizes.Sizeof(f.Type()) != int64(n) {
			t.Errorf("%s.%s has %d bytes in Go, %d in C (%v)", name, f.Name(), sizes.Sizeof(f.Type()), n, err)
		}
	}
	for field := range members {
		t.Errorf("%s has no field for %s of C", name, field)
	}
}

func offset(t *testing.T, s *btf.Struct, field string) uint32 {
	t.Helper()
	for _, m := range s.Members {
		if m.Name == field {
			return m.Offset.Bytes()
		}
	}
	t.Fatalf("struct %s has no %s", s.Name, field)
	return 0
}
