# Balsa. `make help` lists the targets. A fresh clone needs Go, make and git; up and down need Docker.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
BIN     ?= bin
BALSA   := $(BIN)/balsa
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
PACKAGE := github.com/balsa-broker/balsa
LDFLAGS := -s -w -X $(PACKAGE)/cli.Version=$(VERSION) -X $(PACKAGE)/cli.Commit=$(COMMIT)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "$(LDFLAGS)"
TOOL    := $(GO) tool -modfile=tools/go.mod
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
# Fuzz every decoder this long, one after the other.
FUZZTIME ?= 60s

.PHONY: run build test verify robustness robustness-ci crash flips rules race lint lint-fast fmt fuzz bench integration image up down clean help

run: build ## build and run a single broker on 127.0.0.1:9092, data in ./balsa-data
	exec $(BALSA) serve

build: ## build the static binary bin/balsa
	@mkdir -p $(BIN)
	$(BUILD) -o $(BALSA) .

test: ## run the tests: no Docker, no root, no wall-clock thresholds
	$(GO) test ./...

# Every point, where `make test` takes a sample.
crash: ## power cuts, kills, torn sectors, failing and lying syncs at every sync point (minutes)
	BALSA_CRASH=1 $(GO) test -count=1 -timeout 60m -run 'Crash|Kill|PowerLoss|Torn|Flipped|FailedSync|SideFiles|EveryError' ./segment ./partition -rapid.checks=1000
	BALSA_CRASH=1 $(GO) test -count=1 -timeout 60m -run 'Torn|Flipped|Failed' ./cluster/votes ./vfs/crashfs
	BALSA_CRASH=1 $(GO) test -count=1 -timeout 60m -run 'IdentityMatrix' ./simulation

flips: ## a flipped bit at FLIPS (1000) places of each kind of file: nothing of it gets out, and all is whole again
	BALSA_FLIPS=$(or $(FLIPS),1000) $(GO) test -count=1 -v -timeout 90m -run 'TestFlips$$' ./cluster ./cluster/controller

rules: ## take each safety rule out of the code, one after the other: a test must fail (RULE=15: only that one; half an hour)
	$(GO) run ./internal/rules $(if $(RULE),-rule $(RULE))

race: ## the same tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short ./...

integration: build ## real processes, real clients, faults (kcat, iproute2 and root widen it)
	BALSA_BIN=$(CURDIR)/$(BALSA) $(GO) test -tags integration -count=1 -timeout 15m ./integration/...

verify: build ## measure the promised figures against real processes; fails on a miss, writes docs/benchmarks/
	BALSA_BIN=$(CURDIR)/$(BALSA) $(GO) run -tags verify ./integration/verify -out docs/benchmarks $(VERIFY)

robustness: ## an hour of faults against real processes, and the suites of safety.md; fails on a violation (docs/robustness.md)
	$(GO) run -tags robustness ./integration/robustness $(ROBUSTNESS)

robustness-ci: ## the same in ten minutes
	$(GO) run -tags robustness ./integration/robustness -duration 10m $(ROBUSTNESS)

bench: ## the packages' Go benchmarks (balsa bench loads a running cluster)
	$(GO) test -run '^$$' -bench . -benchmem ./...

fuzz: ## fuzz every decoder, FUZZTIME each
	@for package in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "== $$package $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
	  done; done

lint: lint-fast ## gofumpt, go vet, staticcheck, golangci-lint
	$(TOOL) golangci-lint run --allow-parallel-runners --build-tags integration,verify,robustness ./...

lint-fast: ## gofumpt, go vet, staticcheck
	@unformatted=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags integration,verify,robustness ./integration/...
	$(TOOL) staticcheck ./...

fmt: ## format the sources
	$(TOOL) gofumpt -w $$(git ls-files '*.go')

# The image is FROM scratch: the binary, and an empty folder for the data that belongs to the user who runs it.
image: build
	@rm -rf $(BIN)/image && mkdir -p $(BIN)/image/data && cp $(BALSA) $(BIN)/image/balsa
	docker build -t balsa:$(VERSION) -t balsa:latest -f Dockerfile $(BIN)/image

up: image ## three brokers in containers: 127.0.0.1:19092, 29092, 39092
	$(COMPOSE) up -d
	@for port in $${CLUSTER_HTTP_1:-19644} $${CLUSTER_HTTP_2:-29644} $${CLUSTER_HTTP_3:-39644}; do $(BALSA) health --http 127.0.0.1:$$port --wait 90s; done
	@echo "ready: balsa cluster status --brokers 127.0.0.1:19092,127.0.0.1:29092,127.0.0.1:39092"

down: ## remove the containers; V=1 also removes their volumes
	$(COMPOSE) down --remove-orphans $(if $(V),--volumes)

clean: ## remove what was built
	rm -rf $(BIN)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
