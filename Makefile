SHELL := /bin/bash

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 30s
IMAGE    ?= outflow

GOLANGCI_LINT := v2.15.0
# v1.9.0 requires a golang.org/x/telemetry that not every module proxy serves.
GOVULNCHECK := v1.8.0

# The tag docker lets tests use Docker if there are no server binaries. The released program is built without the tag, and without Docker's client.
TEST  := go test -tags docker
build  = CGO_ENABLED=0 go build -tags '$(TAGS)' -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/outflow ./cmd/outflow

.DEFAULT_GOAL := help
.PHONY: help build test test/race matrix torture load failpoints shapes postgres chromium fuzz lint vuln bench demo docker clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z\/]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the static binary bin/outflow
	$(build)

test: postgres chromium ## vet, and all tests with the race detector
	go vet -tags docker ./...
	$(TEST) -race -timeout 45m -parallel 3 ./...

test/race: postgres chromium ## all tests with the race detector, without the test cache
	$(TEST) -race -count=1 -timeout 45m -parallel 3 ./...

# The oldest and the newest major version that Outflow supports; make test uses the machine's own. -short skips tests that no version affects.
matrix: postgres ## the tests that need Postgres, on Postgres 14 and 18
	@set -e; for version in 14 18; do \
		bin=$$(internal/pgcluster/version.sh $$version); echo "tests on $$bin"; \
		OUTFLOW_TEST_PG_BIN=$$bin $(TEST) -short -race -count=1 -timeout 45m -parallel 3 \
			./internal/e2e ./internal/pipeline ./internal/demo ./internal/pgcluster ./internal/torture ./mapping ./replication/... ./sink/...; \
	done

# RUNS schedules of faults, from the seed SEED on, each for DURATION, against outflow as a process: see internal/torture/doc.go. A failure
# prints its seed and keeps its logs; SEED=n with the same DURATION plays the same schedule again. Each run adds a line to RESULTS.
torture: DURATION ?= 60s
torture: RUNS = 1
torture: postgres ## seeded faults against outflow and its servers, under load: SEED=1 DURATION=60s RUNS=1
	OUTFLOW_TORTURE_SEED=$(SEED) OUTFLOW_TORTURE_DURATION=$(DURATION) OUTFLOW_TORTURE_RUNS=$(RUNS) OUTFLOW_TORTURE_RESULTS=$(RESULTS) \
		$(TEST) -race -count=1 -timeout 0 -v -run '^TestTorture$$' ./internal/torture

# 200,000 rows of 20 tenants and 500 destinations, a fifth of them dead. A failure names its seed; OUTFLOW_TEST_SEED repeats the run.
load: postgres ## the tests of kills, faults and load at full size
	OUTFLOW_TEST_KILLS=30 OUTFLOW_TEST_TENANTS=20 OUTFLOW_TEST_ROWS=10000 OUTFLOW_TEST_DESTINATIONS=500 \
		$(TEST) -count=1 -timeout 60m -v -run 'Kill|Backfill|Memory|AnyHistory|SlowAndDead' ./internal/e2e

# make test plays one point of each ordeal, chosen by a seed.
failpoints: postgres ## kills, errors and panics at every failpoint (internal/failpoint)
	$(TEST) -count=1 -timeout 20m ./internal/failpoint
	OUTFLOW_TEST_FAILPOINTS=1000 $(TEST) -count=1 -timeout 30m -v -run Failpoint ./internal/e2e

# A failure prints its seed; the lies also depend on the timing of the connections. With STRICT, the good server's p99 must stay
# within 1.2 of the p99 without liars, which needs an otherwise idle machine.
hostile: DURATION ?= 5m
hostile: LIARS ?= 24
hostile: STRICT ?= 1
hostile: postgres ## lying servers next to a good server, and the commands against them: SEED=1 DURATION=5m LIARS=24
	OUTFLOW_TEST_SEED=$(SEED) OUTFLOW_TEST_DURATION=$(DURATION) OUTFLOW_TEST_LIARS=$(LIARS) OUTFLOW_TEST_STRICT=$(STRICT) \
		$(TEST) -count=1 -timeout 0 -v -run 'HostileServers' ./internal/e2e

soak: DURATION ?= 30m
soak: postgres ## 300 destinations come and go: goroutines, memory, descriptors and connections stay flat: DURATION=30m
	OUTFLOW_TEST_DURATION=$(DURATION) OUTFLOW_TEST_TENANTS=300 $(TEST) -count=1 -timeout 0 -v -run '^TestSoak$$' ./internal/e2e

# The first history has the seed SEED, the next SEED+1, and so on. A failure prints its seed, and SEED=n RUNS=1 repeats the history.
SEED ?= 1
RUNS ?= 20
shapes: postgres ## RUNS histories over random tables, targets and rights, from the seed SEED on
	OUTFLOW_TEST_SEED=$(SEED) OUTFLOW_TEST_SHAPES=$(RUNS) $(TEST) -race -count=1 -timeout 0 -v -run '^TestAnyShape$$' ./internal/e2e

# internal/pgcluster/doc.go says how servers are found; install.sh does nothing if there is one.
postgres: ## install a Postgres server for tests and demo, if there is none
	@internal/pgcluster/install.sh

# For the tests of the dashboard.
chromium: ## install Chromium, if there is none
	@internal/e2e/testdata/chromium.sh

fuzz: ## each fuzz target for FUZZTIME (30s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -hoP '^func \KFuzz\w+' $$dir/*_test.go); do \
			echo "$$dir $$target"; $(TEST) -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$dir; \
		done; \
	done

lint: bin/golangci-lint-$(GOLANGCI_LINT) vuln ## golangci-lint (.golangci.yml) and govulncheck
	$< run ./...

# The vulnerability database is on the network. If it cannot be reached, make warns; only a finding (exit code 3) fails.
vuln: bin/govulncheck-$(GOVULNCHECK) ## govulncheck
	@code=0; $< ./... || code=$$?; \
	if [ $$code = 3 ]; then exit 3; elif [ $$code != 0 ]; then \
		echo "WARNING: govulncheck did not run (exit code $$code); vulnerabilities were NOT checked" >&2; fi

# The version is in the name, so that a new version is installed even if an old one is there.
bin/golangci-lint-%:
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$*
	mv bin/golangci-lint $@

bin/govulncheck-%:
	GOBIN=$(CURDIR)/bin go install golang.org/x/vuln/cmd/govulncheck@$*
	mv bin/govulncheck $@

demo bench: TAGS := docker

bench: build postgres ## throughput and latency on throwaway servers
	bin/outflow bench

demo: build postgres ## the whole system on throwaway servers
	bin/outflow demo --duration 20s

docker: ## the container image
	docker build --build-arg VERSION=$(VERSION) -t $(IMAGE):$(VERSION) .

clean: ## remove bin/
	rm -rf bin
