# Every target sets up what it needs, in a .venv of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
export OMP_NUM_THREADS ?= 2
export MALLOC_TRIM_THRESHOLD_ ?= 536870912
export MALLOC_MMAP_THRESHOLD_ ?= 536870912
export TOKENIZERS_PARALLELISM := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

.PHONY: help setup demo test lint format clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("maskmill needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(ACCELERATOR)]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(ACCELERATOR),dev]'
	touch $@

setup: $(VENV)/.base  ## install maskmill into .venv

demo: $(VENV)/.base  ## draw, curate and train on the starter models, and catch planted faults; ends with runs/demo/report/index.html
	$(BIN)/maskmill demo

test: $(VENV)/.dev  ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

lint: $(VENV)/.dev  ## ruff, mypy (strict), import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the demo run and caches (not .venv)
	rm -rf runs/demo runs/demo-faults .pytest_cache .mypy_cache .ruff_cache
