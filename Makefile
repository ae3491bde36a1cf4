# `make demo` shows the product at work; `make test` sets up and runs every test.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Two builds at once would only wait for each other.
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install-deps
install-deps: ## install what the tests need: PostgreSQL 13, 15, 17 and 18, an S3 server
	tests/tools/setup.sh

.PHONY: build
build: ## build both binaries, quickly
	cargo build --workspace --bins

.PHONY: release
release: ## build both binaries, optimised
	cargo build -p pitr-agent -p pitr-cli --bins --release

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: lint
lint: ## check format, lints and shell scripts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features $(if $(CI),--locked) -- -D warnings
	cargo check -p pitr --no-default-features $(if $(CI),--locked)
	for script in .ci/run $$(git ls-files '*.sh'); do bash -n "$$script" || exit; done
	if command -v shellcheck >/dev/null; then shellcheck -x .ci/run $$(git ls-files '*.sh'); fi

.PHONY: test
test: install-deps ## set up and run every test; ends with "N passed, M failed"
	REQUIRE_E2E=1 tests/tools/run-tests.sh

.PHONY: test-unit
test-unit: ## only the tests that need no server
	tests/tools/run-tests.sh unit doc

.PHONY: test-all
test-all: ## the same on PostgreSQL 13 to 18
	tests/tools/setup.sh 13 14 15 16 17 18
	REQUIRE_E2E=1 PITR_TEST_MAJORS="13 14 15 16 17 18" tests/tools/run-tests.sh

.PHONY: demo
demo: ## a server, a backup, a bad deployment, and the way back to just before it
	tests/demo.sh

.PHONY: bench
bench: ## backup, restore and WAL compared with pgBackRest on the same data
	tests/bench/run.sh

.PHONY: clean
clean: ## remove what was built
	cargo clean
