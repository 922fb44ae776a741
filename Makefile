# make help explains every target.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Two processes of tests at a time need two cores and 12 GB; make test WORKERS=0 runs them in one.
# A module stays in one process, for what it makes once.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder
BENCH_OPTIONS := $(if $(QUICK),--quick) $(if $(FORCE),--force)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-end-to-end bench-ingest bench-training bench-scoring check format docs lock wheel clean

help:  ## Explain every target
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

setup: $(VENV)/ready  ## Make .venv, install the pinned dependencies, fetch Delta's JARs once

$(VENV)/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is missing. Install it (Debian: apt install python3.11 python3.11-venv), or name it: make setup PYTHON=/path/to/python3.11"; exit 20; }
	@{ [ -n "$$JAVA_HOME" ] && [ -x "$$JAVA_HOME/bin/java" ]; } || command -v java >/dev/null || { echo "Java 17 is missing. Install a JDK 17 (Debian: apt install openjdk-17-jre-headless), or set JAVA_HOME to one."; exit 20; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	-@$(BIN)/catalog-batch doctor --prepare
	@touch $@

demo: setup  ## Run the whole line on a synthetic catalogue; everything is left in demo/
	$(BIN)/catalog-batch demo

test: setup  ## Test the parts, in local mode (15 minutes on two cores); ALL=1: whole jobs too (40)
	$(PYTEST) $(if $(ALL),,-m "not end_to_end")

test-end-to-end: setup  ## Run whole jobs as a user would: README, spark-submit, wheel, signals (20 minutes)
	$(PYTEST) -m end_to_end

bench-ingest: setup  ## Time ingest against a bare loop and plain Spark (QUICK=1: 10 minutes)
	$(BIN)/python -m benchmarks.ingest.compare $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.ingest.growth $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.ingest.memory $(BENCH_OPTIONS)

bench-training: setup  ## Time training's input, steps and augmentation, and train on Grocery Store (QUICK=1)
	$(BIN)/python -m benchmarks.training.input $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.training.step $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.training.augmentation $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.training.grocery_store $(BENCH_OPTIONS)

bench-scoring: setup  ## Time scoring against a bare loop, Ray Data, Daft and the usual Spark ways (QUICK=1: half an hour)
	$(BIN)/python -m benchmarks.scoring.compare fp32 $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.scoring.compare int8 $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.scoring.compare usual $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.scoring.growth $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.scoring.grocery_store $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.scoring.profile $(BENCH_OPTIONS)
	$(BIN)/python -m benchmarks.scoring.gpu $(BENCH_OPTIONS)

check: setup  ## Run ruff, mypy --strict and the import contracts
	$(BIN)/ruff check src jobs tests benchmarks
	$(BIN)/ruff format --check src jobs tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code
	$(BIN)/ruff check --fix-only src jobs tests benchmarks
	$(BIN)/ruff format src jobs tests benchmarks

docs: setup  ## Write docs/data_dictionary.md anew from schemas/
	$(BIN)/python docs/write_data_dictionary.py

lock:  ## Resolve requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --generate-hashes --no-header -o requirements.lock

wheel: setup  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## Remove what the other targets made, but not the warehouse
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
