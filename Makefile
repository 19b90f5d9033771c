.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := .venv-tools
LOCKED := $(BIN)/python -m pip install --quiet --no-deps --require-hashes

help:  ## Show this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Make .venv with the versions of requirements.lock, each file checked by its hash

$(STAMP): requirements.lock requirements-cuda.lock requirements-cpu.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medllm needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements-cpu.lock 2>/dev/null || true # torch's CPU build, where pip is offered it
	$(LOCKED) -r requirements.lock
	if $(BIN)/python -m pip show torch | grep -q '^Requires:.*nvidia'; then $(LOCKED) -r requirements-cuda.lock; fi
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

demo: setup  ## Fine-tune the bundled model on the bundled dialogues, in a few minutes on a laptop
	$(BIN)/python train.py experiment=demo

test: setup  ## Run the default tests (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest

test-slow: setup  ## Run the slow tests: the bundled model, whole runs, whole sweeps
	$(BIN)/python -m pytest -m "slow and not gpu"

chaos: setup  ## Kill, freeze, starve and cut off a small sweep at random, for 5 minutes; ARGS="--minutes 480" for a night
	$(BIN)/python -m tests.reliability.chaos $(ARGS)

bench-gpu: setup  ## Training speed on a GPU machine; ARGS="--peers FOLDER" and others are passed on
	$(BIN)/python -m benchmarks.gpu_train $(ARGS)

bench-cpu: setup  ## Training speed on this CPU, the guide's recipe beside it
	$(BIN)/python -m benchmarks.cpu_train $(ARGS)

check: setup  ## Lint, check formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: setup  ## Open the run record at http://127.0.0.1:5000
	$(BIN)/python scripts/ui.py $(ARGS)

$(TOOLS)/.installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet uv pip-audit cyclonedx-bom
	touch $@

lock: $(TOOLS)/.installed  ## Write the lock files anew from pyproject.toml; ARGS="--upgrade" takes the newest
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(PYTHON) tools/lock.py $(ARGS)

audit: $(TOOLS)/.installed  ## Look up known vulnerabilities of the locked versions
	@PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(PYTHON) tools/audit.py $(ARGS)

sbom: $(TOOLS)/.installed  ## Write sbom.json, the locked versions with their hashes (CycloneDX)
	$(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-file sbom.json requirements.lock

clean:  ## Remove the environments; keeps outputs, runs and the cache
	rm -rf $(VENV) $(TOOLS)

.PHONY: help setup demo test test-slow chaos bench-gpu bench-cpu check format ui lock audit sbom clean
