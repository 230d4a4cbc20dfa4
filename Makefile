# Every target sets up what it needs, in a .venv of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A package index of PyTorch builds, such as the one of its CPU builds: make setup TORCH_INDEX=URL
TORCH_INDEX ?=
# The very versions that were tested, of everything: make setup CONSTRAINTS=constraints.txt
CONSTRAINTS ?=
ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
export OMP_NUM_THREADS ?= 2
export MALLOC_TRIM_THRESHOLD_ ?= 536870912
export MALLOC_MMAP_THRESHOLD_ ?= 536870912
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 30000
export OPENBLAS_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
unexport PYTHONDONTWRITEBYTECODE

EXTRAS := cpu gpu crf ray starter geo s3 lora onnx itk dev
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# uv resolves and installs in a minute what takes pip many; where it is not to be had, or fails, pip does it.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
UV = $$(command -v uv || { $(PIP) install uv >/dev/null 2>&1 && echo $(BIN)/uv; })
COMMA := ,
BOUND = $(if $(strip $(CONSTRAINTS)),--constraint $(strip $(CONSTRAINTS)))
define install
set -e; echo "installing $(1)"; uv=$(UV) || true; \
if test -n "$(strip $(TORCH_INDEX))"; then $(PIP) install $(BOUND) --index-url $(strip $(TORCH_INDEX)) torch torchvision; fi; \
if test -n "$$uv" && $$uv pip install --quiet --compile-bytecode $(BOUND) --python $(BIN)/python -e '$(1)'; then exit 0; fi; \
$(PIP) install $(BOUND) -e '$(1)'
endef

.PHONY: help setup demo test slow coverage lint audit format docs blocks constraints clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("maskmill needs Python 3.11 or newer: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call install,.[$(ACCELERATOR)])
	touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(call install,.[$(ACCELERATOR)$(COMMA)dev])
	touch $@

setup: $(VENV)/.base  ## install maskmill into .venv

demo: $(VENV)/.base  ## draw, curate and train on the starter models, and catch planted faults; ends with runs/demo/report/index.html
	$(BIN)/maskmill demo

test: $(VENV)/.dev  ## set up and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

slow: $(VENV)/.dev  ## run the tests that take minutes: the first hour, a real Prefect server, killed workers, kills anywhere, the docs' long pages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

coverage: $(VENV)/.dev  ## run the tests of contracts, curation and pipelines; lines and branches by file, at least 92 %
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/data_contracts tests/curation tests/pipelines tests/report \
		--cov=data_contracts --cov=curation --cov=pipelines --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=92

lint: $(VENV)/.dev  ## ruff, mypy (strict), import-linter, links of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) --site-dir $(VENV)/site

docs: $(VENV)/.dev  ## build the documentation as a site: site/index.html
	$(BIN)/python -m benchmarks.pages
	$(MKDOCS)

blocks: $(VENV)/.dev  ## run every fenced block of README and docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "slow or not slow" tests/docs/test_blocks.py

constraints: $(VENV)/.dev  ## write constraints.txt anew: the newest versions within pyproject's ranges, for all platforms
	$(BIN)/python -m pip --quiet install uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11.5 $(EXTRAS:%=--extra %) --strip-extras --no-header --no-annotate --quiet --output-file constraints.txt

audit: $(VENV)/.base  ## known weaknesses of the installed packages; asks a public service, so CI does not run it
	uv=$(UV); $$uv tool run pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

format: $(VENV)/.dev  ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the demo run and caches (not .venv)
	rm -rf runs/demo runs/demo-faults .pytest_cache .mypy_cache .ruff_cache
