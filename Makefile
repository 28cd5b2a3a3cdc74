# Everything one needs: `make demo` plays the story, `make test` runs all tests. What is missing is installed where that
# is possible, and said in one line where it is not.
.DEFAULT_GOAL := help
.PHONY: help demo run test unit interop console interop-keycloak bench instructions soak fuzz lint format all-targets language docs deny ci deps clean

CARGO := cargo
# josekit links OpenSSL: where its development files are missing and cannot be installed, it is built from source.
FEATURES = $(shell pkg-config --exists openssl 2>/dev/null || echo --features vendored-openssl)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

deps:
	@scripts/install-deps

BUILD = $(CARGO) build --locked --workspace --quiet $(FEATURES)
# As `cargo test` builds it. Dependencies of tests add features to other crates: without them, fifty crates would be
# compiled once more.
BUILD_AS_TESTED = $(BUILD) --tests

demo: deps ## play the whole story against a real server
	$(BUILD)
	target/debug/actchain demo

run: deps ## run a server on the embedded default
	$(CARGO) run --locked --quiet $(FEATURES) -- serve

# The tests make and delete databases by the thousand.
unit interop console interop-keycloak soak: export TMPDIR := $(shell scripts/temporary-folder)

test: unit interop console ## all tests: Rust, real clients from npm, and a real browser

unit: deps
	@scripts/install-deps proxies
	@scripts/install-deps tmux
	$(CARGO) test --locked --workspace $(FEATURES)

interop: deps
	@scripts/install-deps node
	@scripts/install-deps witness
	@scripts/install-deps authlib
	$(BUILD_AS_TESTED)
	tests/interop/run.sh

console: deps
	@scripts/install-deps node
	@scripts/install-deps chromium
	$(BUILD_AS_TESTED)
	tests/console/run.sh

interop-keycloak: deps ## a real Keycloak as the identity provider (170 MB, needs Java)
	@scripts/install-deps node
	@scripts/install-deps keycloak
	$(BUILD_AS_TESTED)
	tests/interop/run.sh keycloak/story.mjs

bench: deps ## exchanges per second, latency and CPU time, beside the cryptographic floor and a peer
	@scripts/install-deps node
	@[ -d tests/interop/node_modules ] || npm ci --prefix tests/interop --no-audit --no-fund
	$(CARGO) bench --locked $(FEATURES) --bench load
	$(CARGO) bench --locked $(FEATURES) --bench micro

instructions: deps ## what the parts of an exchange cost in instructions, compared with the stored figures
	@scripts/install-deps valgrind
	$(CARGO) test --locked --workspace --quiet $(FEATURES) --bench instructions

soak: deps ## a thousand rounds of kill -9 under load
	SOAK_ROUNDS=1000 $(CARGO) test --locked $(FEATURES) --test process crash

FUZZ_SECONDS ?= 600
FUZZ_TARGETS := form jwt proof details cursor manifest
fuzz: deps ## the fuzz targets, ten minutes each (FUZZ_SECONDS)
	@scripts/install-deps fuzz
	@# The server has no unsafe code, so that a sanitizer would find nothing; libFuzzer's flags need the compiler's consent.
	@for target in $(FUZZ_TARGETS); do mkdir -p fuzz/target/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; done

lint: deps format language ## format, clippy and language
	$(CARGO) clippy --locked --workspace --all-targets $(FEATURES) -- -D warnings

format: ## whether the code is formatted
	$(CARGO) fmt --all --check

# What the tests run, and the benchmarks.
all-targets: deps
	$(CARGO) build --locked --workspace --all-targets $(FEATURES)

language: ## words and sentences that the project does not use
	scripts/check-language

docs: ## the documentation as a book, in target/book
	@scripts/install-deps mdbook
	mdbook build

deny: ## licences, bans and sources of all dependencies
	@scripts/install-deps deny
	@# Crates of other systems are not there after a build. Without a network this one's are what can be checked.
	@only=; $(CARGO) fetch --locked --quiet || { \
	  only="--target $$(rustc -vV | sed -n 's/^host: //p')"; echo "not all crates are to be had: checking$${only#--target}'s" >&2; }; \
	set -x; $(CARGO) deny --offline $$only check licenses bans sources

ci: lint deny test ## what continuous integration runs

clean: ## remove what was built, and the data of `make run`
	$(CARGO) clean
	scripts/clean-data .actchain
	rm -rf tests/interop/node_modules
