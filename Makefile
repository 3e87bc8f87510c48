# `make run` and `make test` need nothing but Python 3.11 to 3.13; each sets up what it lacks and says so.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
FAULTS ?= $(if $(SECONDS),,20)
SIMULATED ?= 10000
STAMP := $(VENV)/.synced

.PHONY: setup run up test test-slow test-tools lint demo-failure bench crash-loop chaos swarm fuzz docs lock policy

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "setting up $(VENV) from requirements.lock"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	@touch $(STAMP)

run: setup
	@$(BIN)/ioi run documents --out out

up: setup
	@$(BIN)/ioi up

demo-failure: setup
	@$(BIN)/python -m definitions.documents.demo_failure

test-tools: setup
	@command -v opa >/dev/null || test -x "$$(go env GOPATH 2>/dev/null)/bin/opa" || { \
	  command -v go >/dev/null || { echo "tests need opa; install Go, then: go install github.com/open-policy-agent/opa@v1.22.2"; exit 1; }; \
	  echo "installing opa by go install"; go install github.com/open-policy-agent/opa@v1.22.2; }
	@command -v chromium >/dev/null || { \
	  echo "installing chromium by apt-get"; apt-get update -qq && apt-get install -y -qq chromium >/dev/null; }
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  echo "installing postgresql by apt-get"; apt-get update -qq && apt-get install -y -qq postgresql >/dev/null; }

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/pyright
	@PYTHONPATH=. $(BIN)/lint-imports

test: test-tools lint
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: test-tools
	@$(BIN)/python -m pytest -m slow

bench: setup
	@$(BIN)/python -m benchmarks.documents --quick

swarm: setup
	@$(BIN)/python -m pytest -m slow tests/scenario

fuzz: setup
	@$(BIN)/python -m pytest -m slow -k hundred_thousand tests/properties/test_fuzzed_gateway.py \
		tests/properties/test_fuzzed_answers.py tests/properties/test_fuzzed_members.py tests/properties/test_fuzzed_streams.py tests/unit/test_protocol.py

crash-loop: test-tools
	@$(BIN)/python -W ignore -m tests.crash --kills 200
	@$(BIN)/python -W ignore -m tests.crash --kills 40 --storage postgres

chaos: setup
	@$(BIN)/python -W ignore -m benchmarks.chaos $(if $(FAULTS),--faults $(FAULTS)) --simulated $(SIMULATED) $(if $(ROWS),--rows $(ROWS)) $(if $(SECONDS),--seconds $(SECONDS))

docs: setup
	@$(BIN)/python -m benchmarks.record
	@$(BIN)/mkdocs build --strict --quiet

policy: setup
	@$(BIN)/ioi policy build

lock:
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --all-extras --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock
