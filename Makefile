# `make demo` and `make test` each work alone on a fresh machine: they make .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
CODE := src tests runs examples
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test quick smoke test-app lint types setup clean

demo: $(VENV)/.core
	$(BIN)/mmldm generate --out out

test: $(VENV)/.dev
	$(PYTEST) -m "not smoke and not app"

# Rules, types and the fast third of the tests: before every commit.
quick: lint types
	$(PYTEST) -m "not smoke and not slow and not app"

smoke: $(VENV)/.dev
	$(BIN)/python -m pytest -m smoke

# The page in a real browser: needs Debian's chromium (or CHROMIUM=/path/to/one), and skips without.
test-app: $(VENV)/.app
	$(BIN)/python -m pytest -m app tests/app

lint: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(VENV)/.dev
	$(BIN)/mypy

setup: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@ $(VENV)/.core

$(VENV)/.app: $(VENV)/.dev
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[dev,test-app]'
	touch $@

clean:
	rm -rf $(VENV) build dist out src/*.egg-info
