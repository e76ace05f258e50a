# Every command makes its own environment on first use: a Python 3.11 is all that has to be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Threads of one process; tests run one process a core, so that more threads would only get in each other's way.
export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest
WORKERS := -n auto --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help install demo test test-quick test-integrations benchmark study docs lint coverage mutation screenshots build lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP)  ## make .venv and install the pinned development requirements

$(STAMP): requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

demo: $(STAMP)  ## train a small conv net on MNIST with the monitors on (under 3 minutes)
	$(BIN)/python examples/mnist.py

test: $(STAMP)  ## the whole test suite
	$(PYTEST) $(WORKERS) -m "not integrations"

test-quick: $(STAMP)  ## the tests that take a moment
	$(PYTEST) $(WORKERS) -m "not integrations and not slow"

test-integrations: $(VENV)-integrations/.installed  ## train modules of other libraries with the monitors on
	$(VENV)-integrations/bin/python -m pytest -m integrations

$(VENV)-integrations/.installed: requirements-integrations.lock pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-integrations.lock
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

benchmark: $(VENV)-benchmark/.installed $(VENV)-slice-peers/.installed  ## time and error beside other libraries (long)
	PEERS_PYTHON=$(VENV)-slice-peers/bin/python $(VENV)-benchmark/bin/python -m benchmarks

$(VENV)-slice-peers/.installed: requirements-slice-peers.lock
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-slice-peers.lock
	touch $@

$(VENV)-benchmark/.installed: requirements-benchmark.lock requirements-dev.lock pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-benchmark.lock
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

study: $(STAMP)  ## how often the diagnosis is right, on problems with known truth (long)
	$(BIN)/python -m benchmarks.diagnosis_study

docs: $(STAMP)  ## the manual, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

coverage: $(STAMP)  ## the whole test suite with branch coverage
	$(PYTEST) $(WORKERS) -m "not integrations" --cov --cov-report=term --cov-report=html --cov-fail-under=95

mutation: $(STAMP)  ## change surface/ and diagnosis/ line by line and see whether a test notices (very long)
	$(BIN)/python -m mutmut run
	$(BIN)/python -m mutmut results

screenshots: $(STAMP)  ## the pictures of the README, from a real run (needs Chromium)
	$(BIN)/python docs/screenshots.py

build: $(STAMP)  ## wheel and sdist, into dist/
	$(BIN)/python -m build --no-isolation

lock:  ## resolve the development requirements anew and write requirements-dev.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet "torch==2.13.0" "lightning==2.6.6" "pytorch-lightning==2.6.6" -e ".[dev,docs]"
	sed -n '/^#/p' requirements-dev.lock > build/lock/header
	build/lock/bin/python -m pip list --format=freeze --exclude pip --exclude landscape-callbacks \
		| sed '/^nvidia\|^cuda\|^triton/d; s/+[a-z0-9.]*$$//' | sort -f > build/lock/pins
	cat build/lock/header build/lock/pins > requirements-dev.lock

clean:  ## everything that was made, but not the environment
	rm -rf build dist site htmlcov mutants .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)*" -prune -exec rm -rf {} +
