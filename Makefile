# Every target sets up what it needs. Nothing comes from elsewhere than PyPI and npm.
#   make PYTHON=python3.12 setup    another Python
#   make test ARGS="-k stalled"     arguments for pytest (also for demo and bench)
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Which Python is only said when the caller says it; otherwise an existing .venv is kept.
PYTHON ?=
ARGS ?=
BIN := .venv/bin

.PHONY: help setup demo test check fix bench bench-audio docs lock clean
.PHONY: .dev .demo .node-tests .node-example .ffmpeg

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: .dev .node-tests .node-example ## Python environment and Node packages
	@echo "ready: $(BIN)/python is $$($(BIN)/python --version)"

demo: .demo .node-example ## A Node API, a Python worker and a server of their own
	@$(BIN)/python examples/demo.py $(ARGS)

test: .dev .node-tests .node-example .ffmpeg ## All tests
	@$(BIN)/python -m pytest $(ARGS)

check: .dev ## Format, lint, types, layers, public names, imports of the tests
	@$(BIN)/ruff format --check --quiet . || { echo "not formatted: make fix" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-cache --no-logo
	@out=$$($(BIN)/python -m pytest --collect-only -q --no-header 2>&1) || { echo "$$out" | tail -n 40 >&2; exit 1; }
	@$(BIN)/python -m pytest -q --no-header tests/unit/test_exports.py tests/unit/test_repository.py

fix: .dev ## Format, and what the linter can mend
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

bench: .dev .node-tests ## Measure against Node and the upstream port
	@$(BIN)/python benchmarks/throughput.py $(ARGS)

bench-audio: .dev ## Measure audio analysis against ffmpeg, pyloudnorm and librosa
	@scripts/bench-audio.sh
	@$(BIN)/python -m benchmarks.audio $(ARGS)

docs: .dev ## build/docs/index.html
	@$(BIN)/sphinx-build --quiet --fail-on-warning docs build/docs
	@echo "build/docs/index.html"

lock: .dev ## Write requirements/*.txt anew (ARGS=--upgrade for new versions)
	@scripts/lock.sh $(ARGS)

clean: ## Remove everything that set-up and tests made
	@rm -rf .venv build dist .setup.lock .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@rm -rf tests/node/node_modules examples/node-api/node_modules
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

.dev:
	@scripts/setup.sh python dev $(PYTHON)

.demo:
	@scripts/setup.sh python demo $(PYTHON)

.node-tests:
	@scripts/setup.sh node tests/node

.node-example:
	@scripts/setup.sh node examples/node-api

.ffmpeg:
	@scripts/setup.sh ffmpeg
