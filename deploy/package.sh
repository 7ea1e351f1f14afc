#!/usr/bin/env bash
# Builds the Debian and RPM packages into bin/packages, from bin/ctsight: the same
# bytes for the same commit.
set -euo pipefail
cd "$(dirname "$0")/.."

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2 # the last without modules of a host of its own
stage=bin/stage
out=bin/packages

ARCH=$(go env GOARCH)
# 1.2.3, or 1.2.3+4.gabcdef after it: that is newer, to dpkg and to rpm.
if commit=$(git rev-parse --short HEAD 2>/dev/null); then
	: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
	VERSION=$(git describe --tags --match 'v[0-9]*' 2>/dev/null || echo "v0.0.0-$(git rev-list --count HEAD)-g$commit")
else # a copy without history
	: "${SOURCE_DATE_EPOCH:=$(stat -c %Y CHANGELOG.md)}"
	VERSION=v0.0.0
fi
VERSION=${VERSION#v}
VERSION=$(sed -E 's/-([0-9]+)-g/+\1.g/' <<<"$VERSION")
export ARCH VERSION SOURCE_DATE_EPOCH

rm -rf "$stage" "$out"
mkdir -p "$stage/man" "$out"

# Pages from the commands themselves; what renders them stays out of the binary.
CTSIGHT_MAN="$PWD/$stage/man" go test ./cmd/ctsight -count=1 -run '^TestManPages$' >"$stage/log" || { cat "$stage/log" >&2; exit 1; }
gzip -n9 "$stage"/man/*.1
for shell in bash zsh fish; do
	bin/ctsight completion "$shell" >"$stage/ctsight.$shell"
done
# The newest part of the changelog, in the form that apt-listchanges reads.
{
	printf 'ctsight (%s) unstable; urgency=medium\n\n' "$VERSION"
	awk '/^## / && n++ {exit} sub(/^- /, "  * ")' CHANGELOG.md | fmt -t -w 74 | sed "s,^[^ ],    &,"
	printf '\n -- ctsight developers <ctsight@users.noreply.github.com>  %s\n' "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -n9 >"$stage/changelog.gz"
printf 'ctsight: %s\n' 'statically-linked-binary [usr/bin/ctsight]' 'maintainer-script-calls-systemctl [postrm:*]' >"$stage/lintian"

# The licences of what is linked in.
{
	printf '== the Go library\n\n'
	cat "$(go env GOROOT)/LICENSE"
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/ctsight | sort -u |
		while read -r path version dir; do
			printf '\n== %s %s\n\n' "$path" "$version"
			cat "$dir"/LICEN[CS]E* "$dir"/NOTICE* "$dir"/COPYING* 2>/dev/null || :
		done
	printf '\n== uPlot\n\n'
	cat internal/report/uplot/LICENSE
} | gzip -n9 >"$stage/licences.gz"

for kind in deb rpm; do
	go run "$nfpm" package -f deploy/nfpm.yaml -p "$kind" -t "$out/" >"$stage/log" || { cat "$stage/log" >&2; exit 1; }
done
ls -l "$out" | awk 'NF > 2 {printf "%s %.1f MB\n", $NF, $5 / 1e6}'
