# ctsight: make help lists the targets. `make demo` and `make test` install what
# they need on Debian and Ubuntu; elsewhere they say what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

KERNELS ?= all
ENGINE ?= docker
BIN := bin
export CGO_ENABLED := 0
GO_SOURCES := $(shell find cmd internal -name '*.go' -o -name '*.o') go.mod go.sum

# What the lab needs to boot a kernel, and what generating needs, as packages.
LAB_PACKAGES := qemu-system-x86 busybox-static bash iproute2 nftables conntrack iptables ipvsadm kmod jq xz-utils cpio debian-archive-keyring hping3 nmap masscan zmap
# and what it is compared with, beside conntrack.
BENCH_PACKAGES := bpftrace
# What checks units and packages.
PACKAGE_PACKAGES := systemd rpm
GENERATE_PACKAGES := clang-14 llvm-14
# Servers that tests run themselves: unpacked, not installed; and what they are written in.
TEST_PACKAGES := prometheus fail2ban:fail2ban-regex crowdsec
TEST_NEEDS := python3
# A browser that tests drive, and letters for it.
BROWSER_PACKAGES := chromium fonts-dejavu-core
# Who reads our Parquet: a package for node.
DUCKDB := @duckdb/node-api@1.5.6-r.1
# What internal/report/uplot has a copy of: the same as a package for node.
UPLOT := uplot@1.6.32
export PATH := $(CURDIR)/$(BIN)/debian:$(PATH)

.PHONY: help demo build generate test test-vm bench eval lint fmt package image clean deps-lab deps-bench deps-generate deps-test deps-browser deps-package deps-duckdb deps-uplot

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build deps-lab ## the main job in a minute: on this kernel if it can host the probes, else in a VM
	@$(BIN)/labvm demo

build: $(BIN)/ctsight $(BIN)/labvm ## bin/ctsight, one static binary

$(BIN)/ctsight: $(GO_SOURCES)
	@go build -trimpath -ldflags='-s -w' -o $@ ./cmd/ctsight

$(BIN)/labvm: $(GO_SOURCES)
	@go build -trimpath -o $@ ./internal/lab/labvm

generate: deps-generate ## compile bpf/ into internal/abi (clang 14); the result is committed
	go generate ./gen.go

test: build package deps-lab deps-generate deps-test deps-browser deps-package deps-duckdb deps-uplot ## everything: vet, unit tests, generated code, all kernels
	@./.ci/gotest ./...
	@$(BIN)/labvm test -again -kernel $(KERNELS) -- '-test.skip=^(TestLockdown|TestDeb|TestRPM)$$'
	@for mode in integrity confidentiality; do \
		$(BIN)/labvm test -again -kernel 6.12 -append lockdown=$$mode -run '^TestLockdown$$' ./cmd/ctsight & pids+=" $$!"; done; \
		$(BIN)/labvm test -again -systemd -kernel 6.1 -add "$$(echo $(BIN)/packages/*.deb):/lab/ctsight.deb" \
			-add "$$(echo $(BIN)/packages/*.rpm):/lab/ctsight.rpm" ./internal/lab/pack & pids+=" $$!"; \
		for pid in $$pids; do wait $$pid || failed=1; done; [ -z "$${failed:-}" ]

test-vm: build deps-lab deps-test ## only the tests that need a kernel; KERNELS=6.1 for one
	@$(BIN)/labvm test -kernel $(KERNELS)

bench: build deps-lab deps-bench ## instructions per connection under -icount, into docs/bench.md; fails over the gate
	@go run ./internal/lab/bench

eval: ## how well scans are found, ours beside others, into docs/evaluation.md; needs ../shared/data
	@go run ./internal/lab/eval

lint: ## golangci-lint with .golangci.yml
	@go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

fmt: ## gofmt and clang-format
	@gofmt -w cmd internal gen.go
	@if command -v clang-format >/dev/null; then clang-format -i bpf/*.c bpf/*.h; fi

package: build ## Debian and RPM packages, in bin/packages
	@./deploy/package.sh

image: build ## container image with nothing but the binary; ENGINE=podman for that
	$(ENGINE) build --build-arg VERSION=$$(git describe --always --dirty) --build-arg REVISION=$$(git rev-parse HEAD) -t ctsight:dev .

clean: ## remove what make has built; the cache of kernels stays
	rm -rf $(BIN) ctsight-demo.html

deps-lab:
	@./.ci/deps $(LAB_PACKAGES)

deps-bench:
	@./.ci/deps $(BENCH_PACKAGES)

deps-package:
	@./.ci/deps $(PACKAGE_PACKAGES)

deps-generate:
	@./.ci/deps $(GENERATE_PACKAGES)

deps-test:
	@./.ci/deps $(TEST_NEEDS)
	@./.ci/unpack $(BIN)/debian $(TEST_PACKAGES)

deps-browser:
	@./.ci/deps $(BROWSER_PACKAGES)

deps-duckdb:
	@command -v npm >/dev/null || ./.ci/deps nodejs npm
	@[ -d $(BIN)/duckdb/node_modules/@duckdb ] || npm install --prefix $(BIN)/duckdb --silent --no-audit --no-fund --ignore-scripts $(DUCKDB) >/dev/null || echo "could not install $(DUCKDB): the tests with DuckDB are skipped" >&2

deps-uplot:
	@command -v npm >/dev/null || ./.ci/deps nodejs npm
	@[ -d $(BIN)/uplot/node_modules/uplot ] || npm install --prefix $(BIN)/uplot --silent --no-audit --no-fund --ignore-scripts $(UPLOT) >/dev/null || echo "could not install $(UPLOT): our copy is not compared with it" >&2
